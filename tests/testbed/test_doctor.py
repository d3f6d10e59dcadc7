"""The doctor and stage-model: what hosts answer, which options there are, and whose file --log may
replace."""

import json
import os
import shutil
from pathlib import Path

import pytest
from places import RECORDS
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from jarvis_mpi import __version__
from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.record import links_file
from jarvis_mpi.testbed import doctor, probe, stage_model

pytestmark = pytest.mark.slow

RUN = """#!/bin/bash
echo "Welcome [/b] to this host"; echo '[1, 2]'; echo '"x"'
for last; do :; done
eval "$last"
echo 0; echo null; echo bye
"""
FAR = "127.0.0.5"  # to us another machine


@pytest.fixture
def hosts(tmp_path) -> Path:
    path = tmp_path / "hosts"
    path.write_text(f"localhost slots=2\n{FAR} slots=1\n")
    return path


@pytest.fixture
def as_ssh(tmp_path, monkeypatch):
    """Has a script in ssh's place."""

    def put(script: str) -> None:
        path = tmp_path / "as ssh"
        path.write_text(script if script.startswith("#!") else f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("JARVIS_SSH", f"'{path}'")

    return put


def says(answer: object) -> str:
    return f"cat > /dev/null; cat <<'END'\n{answer if isinstance(answer, str) else json.dumps(answer)}\nEND"


OTHER = f"does not answer as jarvis_mpi {__version__} does (its answer"
WHOLE = {
    "host": "x", "cores": 1, "free_bytes": 1, "fingerprint": "", "lacks": "", "wrong_model": "", "time": 0.0,
    "versions": {"jarvis_mpi": __version__, "torch": "1", "transformers": "1"},
}  # fmt: skip
ANSWERS = [
    (says("5"), f"{FAR} cannot run python -m jarvis_mpi from here's path: 5"),
    (says("[" * 5000), f"{FAR} cannot run python -m jarvis_mpi from here's path: [["),
    (says({"host": "x"}), f"{FAR} {OTHER} has no cores): install the same there"),
    (says({**WHOLE, "versions": {"jarvis_mpi": "9.9"}}),
     f"{FAR} has jarvis_mpi 9.9, this machine {__version__}"),
    (says({**WHOLE, "versions": [1]}), f"{FAR} {OTHER}['versions'] is [1]"),
    (says({**WHOLE, "free_bytes": None}), f"{FAR} {OTHER}['free_bytes'] is None"),
    (says({**WHOLE, "layers": ["x"]}), f"{FAR} {OTHER}['layers'] is ['x']"),
    (says({**WHOLE, "host": "\ud800"}), f"{FAR} does not answer as jarvis_mpi"),
    ("exit 255", f"{FAR} cannot be reached by ssh: it says nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("script", "sentence"), ANSWERS)
def test_a_hosts_wrong_answer_is_one_line(script, sentence, hosts, as_ssh, small, capsys):
    as_ssh(script)
    assert doctor.main(["--hostfile", str(hosts), "--links", "no", "--model", str(small)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("localhost ")  # what was good beside it is still shown
    assert lines[2].startswith(sentence)
    assert lines[3:] == ["1 thing to mend"]


def test_what_a_shell_says_around_an_answer_is_passed_over(hosts, as_ssh, small, capsys, tmp_path):
    as_ssh(RUN)
    words = ["--hostfile", str(hosts), "--model", str(small)]
    assert doctor.main([*words, "--links", "no", "--max-new-tokens", "4", "--stop", "x"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("nothing to mend\n")
    assert out.splitlines()[2].startswith(FAR)
    assert stage_model.main(words) == 0
    assert capsys.readouterr().out == f"{FAR} has the whole model\n"


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (says({"host": "x"}) + "; exit", None),
        (says({"missing": [1]}), f"{FAR} {OTHER}['missing'] is [1]"),
        (says({"missing": {"/etc/passwd": [0]}}),
         f"{FAR} asks for part 0 of '/etc/passwd', which it was not offered"),
        (says({"missing": {"model.safetensors": [-1]}}), f"{FAR} asks for part -1 of 'model.safetensors'"),
        (says({"missing": {}}), f"{FAR}: the connection broke off"),
        ("echo 'no python' >&2", f"{FAR}: no python; stage-model again sends what is missing"),
    ],
)  # fmt: skip
def test_stage_model_says_what_a_host_does_not_do(script, sentence, hosts, as_ssh, small, capsys):
    as_ssh(script.replace("cat > /dev/null; ", "read -r wanted; "))
    assert stage_model.main(["--hostfile", str(hosts), "--model", str(small)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(sentence or FAR)


REFUSED = [
    ("--hostfiel {hosts} --model {model}", "unrecognized arguments: --hostfiel"),
    ("--host {hosts}", "unrecognized arguments: --host"),
    ("--model {model} surplus", "unrecognized arguments: surplus"),
    ("--model {model} --log f.h5",
     "--log would change nothing: without --hostfile the doctor looks at the model"),
    ("--model {model} --links no --copies 2", "--links and --copies would change nothing"),
    ("--hostfile {hosts} --copies -1", "--copies is -1, but must be at least 0"),
    ("--hostfile {hosts} --slowest-link-kbit-s nan",
     "--slowest-link-kbit-s is nan, but must be at least 0.001"),
    ("--hostfile {hosts} --slowest-link-kbit-s x",
     "argument --slowest-link-kbit-s: invalid float value: 'x'"),
    ("--hostfile {hosts} --temperature -1", "--temperature is -1.0, but must be at least 0.0"),
    ("--hostfile {hosts} --links maybe", "argument --links: invalid choice: 'maybe'"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "sentence"), REFUSED)
def test_an_option_that_is_wrong_or_idle_is_refused(words, sentence, hosts, small, capsys):
    assert doctor.main(words.format(hosts=hosts, model=small).split()) == 2
    out, error = capsys.readouterr()
    assert not out
    assert error.startswith(sentence)
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [("", "the following arguments are required: --hostfile (see python -m jarvis_mpi stage-model --help)"),
     ("--hostfile {hosts} --copies -1", "--copies is -1"), ("--hostfile {hosts} --copie 1",
                                                            "unrecognized arguments")],
)  # fmt: skip
def test_stage_models_options_have_a_runs_limits(words, sentence, hosts, capsys):
    assert stage_model.main(words.format(hosts=hosts).split()) == 1
    assert capsys.readouterr().err.startswith(sentence)


# -- the file of --log


def written(path: Path, before=None) -> None:
    links_file.write(path, ["a", "b"], {"a": {"host": "a"}, "b": {"host": "b"}}, [(0, 1, 0.1, 9.0)], before)


def test_only_what_a_doctor_wrote_is_replaced(tmp_path):
    path = tmp_path / "doctor.h5"
    assert links_file.usable(path) is None
    written(path)
    written(path, links_file.usable(path))
    assert links_file.links_in(path) == {frozenset("ab"): [0.1, 9.0]}
    assert [each.name for each in tmp_path.iterdir()] == ["doctor.h5"]


RECORD = sorted(RECORDS.glob("*.h5"))[-1]


@pytest.mark.parametrize("kind", ["text", "record", "empty", "device"])
def test_anything_else_stays_as_it_is(kind, tmp_path, hosts, capsys):
    path = tmp_path / "doctor.h5"
    if kind == "device":
        path.symlink_to(os.devnull)  # beside which only root may write
    elif kind == "record":
        shutil.copy(RECORD, path)
    else:
        path.write_text("mine" if kind == "text" else "")
    before = path.read_bytes()
    assert doctor.main(["--hostfile", str(hosts), "--log", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"--log {path} is not what doctor writes: ")
    assert path.read_bytes() == before


def test_what_was_written_meanwhile_stays(tmp_path):
    path = tmp_path / "doctor.h5"
    before = links_file.usable(path)
    path.write_text("another's")
    with pytest.raises(Unservable, match="was written by another process meanwhile: name another file"):
        written(path, before)
    assert path.read_text() == "another's"


def test_a_file_that_cannot_be_written_is_one_of_the_lines(hosts, small, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(links_file, "image", full)
    monkeypatch.setattr(probe, "answer_of", lambda host, model: 1 / 0)
    words = ["--hostfile", str(hosts), "--model", str(small), "--log", str(tmp_path / "doctor.h5")]
    assert doctor.main(words) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"{FAR} cannot be asked: division by zero" in lines
    assert f"--log {tmp_path / 'doctor.h5'} cannot be written: No space left on device" in lines
    assert lines[-1] == "3 things to mend"
    assert not list(tmp_path.glob("*.part"))


def test_each_bad_file_of_a_model_is_named_at_once(small, tmp_path, capsys):
    """A fetch of gigabytes for each is too much."""
    folder = shutil.copytree(small, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(small)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="40kB")
    first, second, third, *_ = sorted(folder.glob("model-*.safetensors"))
    first.write_bytes(first.read_bytes()[:-100])
    second.unlink()
    tensors = load_file(third)
    name = next(iter(tensors))
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, third)
    assert doctor.main(["--model", str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    found = [line for line in lines if not line.startswith(("looking", "reading"))]
    assert found[-1] == "3 things to mend"
    for path, why in ((first, "is damaged"), (second, "is missing"), (third, f"tensor {name} holds NaN")):
        assert [why in line for line in found if line.startswith(str(path))] == [True]
