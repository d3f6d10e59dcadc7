"""What is said on the command line has its effect, or a sentence that names it: empty words, idle options,
pipes in a file's place, and what a resumed run is asked with."""

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from jarvis_mpi.app import resume
from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.options import parse
from jarvis_mpi.common.settings import Settings
from jarvis_mpi.model import gguf_header, patch, safetensors_files, safetensors_header
from jarvis_mpi.net.plan import idle
from jarvis_mpi.protocol import placement
from jarvis_mpi.record.links_file import links_in
from jarvis_mpi.record.study_file import costs_in

NAMES = (
    "resume",
    "prompts",
    "stop",
    "links",
    "patches",
    "log",
    "study",
    "draft",
    "model",
    "split",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", [["--{}", ""], ["--{}="], ["--max-new-tokens", "3", "--{}", "", "--json"]])
def test_an_empty_value_is_refused_by_name(name, form):
    with pytest.raises(Unservable, match=f"^--{name} is empty: give it a value, or leave it away$"):
        parse([word.format(name) for word in form])


def test_no_faults_and_no_skipped_layers_can_be_asked_for():
    """As sweeps over them do."""
    settings = parse(["--fault", "", "--skip-layers="])
    assert (settings.fault, settings.skip_layers) == ("", "")


def test_what_only_looks_empty_is_not(tmp_path):
    assert parse(["--prompt", "a=", "--stop", "x", "--stop", " "]).stop == ("x", " ")
    with pytest.raises(Unservable, match="there is no prompt"):
        parse(["--prompt", ""]).checked()


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({}, []),
        ({"draft_tokens": 4}, ["--draft-tokens 4 has no effect: it needs --draft"]),
        ({"copies": 0}, []),
        (
            {"on_fault": "copy,patch", "copies": 0},
            [
                "copy in --on-fault copy,patch has no effect: it needs --copies",
                "patch in --on-fault copy,patch has no effect: it needs --patches",
            ],
        ),
        ({"draft_tokens": 4, "draft": "text"}, []),
        (
            {"top_k": 5, "top_p": 0.5, "seed": 7},
            ["--top-k 5, --top-p 0.5, --seed 7 have no effect: they need a --temperature above 0"],
        ),
        ({"top_k": 5, "temperature": 0.1}, []),
        (
            {"copied_blocks": 3, "copies": 0},
            ["--copied-blocks 3 has no effect: it needs copies (--copies, --on-fault copy)"],
        ),
        (
            {"copies": 3, "on_fault": "skip"},
            ["--copies 3 has no effect: it needs copy in --on-fault, which is skip"],
        ),
        (
            {"patches": "p", "on_fault": "stop"},
            ["--patches p has no effect: it needs patch in --on-fault, which is stop"],
        ),
        (
            {"max_skipped": 5, "never_skip": "none", "on_fault": "stop"},
            [
                "--max-skipped 5, --never-skip none have no effect: they need skip in --on-fault, "
                "which is stop"
            ],
        ),
        ({"max_skipped": 5, "never_skip": "none", "on_fault": "patch,skip", "patches": "p"}, []),
    ],
)
def test_options_without_effect_are_a_line(options, lines):
    assert list(idle(Settings(**options))) == lines


@pytest.mark.parametrize("split", ["-1,5", "5,-1", "-4"])
def test_a_negative_number_of_layers_is_named(split):
    with pytest.raises(Unservable, match=rf"--split {split} gives a worker -\d layers"):
        placement.place(6, 2, split=split, end_user_layers="first,last")


def test_a_journal_has_a_bound():
    with pytest.raises(Unservable, match=r"--journal-mb is 1e\+305, but must be between"):
        parse(["--journal-mb", "1e305"]).checked()


READERS = {
    "links": links_in,
    "study": lambda path: costs_in(path, 6),
    "patches": patch.read,
    "tensors": safetensors_header.header_of,
    "gguf": gguf_header.read,
    "json": safetensors_files.json_object,
    "record": lambda path: resume.read(path),
}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("what", ["pipe", "folder", "device"])
def test_what_is_no_file_is_a_sentence_and_not_waited_for(kind, what, tmp_path):
    path = tmp_path / "it"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    errors: list[str] = []

    def read() -> None:
        try:
            READERS[kind](path)
        except Unservable as error:
            errors.append(str(error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert "it is no file" in errors[0] or "is no file" in errors[0]


# -- a run that is resumed

SHORT = {"prompt": "Sum:\n\na long document", "prompts": "", "model": "m"}


def run_of(settings=SHORT, **attributes):
    return SimpleNamespace(path=Path("st.h5"), settings=settings, attributes=attributes)


def test_the_same_line_asks_the_same_question():
    for run in (run_of(), run_of(prompt_option="Sum:")):
        for words in ([], ["--prompt", "Sum:"], ["--prompt", SHORT["prompt"]]):
            assert resume.settings_of(run, words).prompt == SHORT["prompt"]
    whole = run_of(prompt_option=SHORT["prompt"])
    for run, prompt in ((run_of(), "Sum"), (run_of(prompt_option="Sum:"), "else"), (whole, "Sum:")):
        with pytest.raises(Unservable, match=f"--prompt is '{prompt}', but the run in st.h5 has 'Sum:"):
            resume.settings_of(run, ["--prompt", prompt])


def test_a_sentence_never_holds_a_whole_document():
    run = run_of({**SHORT, "prompt": "Sum:\n\n" + "long " * 100_000})
    with pytest.raises(Unservable) as raised:
        resume.settings_of(run, ["--prompt", "x" * 100_000])
    assert len(str(raised.value)) < 300


def test_what_a_resumed_run_has_is_known_before_two_options_are_compared():
    words = ["--resume", "st.h5", "--beat-s", "0.5"]
    parse(words).checked(words_alone=True)
    assert resume.settings_of(run_of({**SHORT, "silence_s": 3.0}), words).silence_s == 3.0
    with pytest.raises(Unservable, match="--silence-s is 1, but must be at least 3 times"):
        resume.settings_of(run_of({**SHORT, "silence_s": 1.0}), words)
    with pytest.raises(Unservable, match=r"--prompt is 'x', but the run in st\.h5 has None"):
        resume.settings_of(run_of({**SHORT, "prompt": None, "prompts": "f"}), ["--prompt", "x"])


class Came:
    def __init__(self, text):
        self.came = text

    def text(self):
        return self.came

    def left_out(self, why):
        return f"left out: {why}" if self.came.strip() else ""


def test_standard_input_beside_a_resumed_run():
    run, words = run_of(), ["--prompt", "Sum:"]
    for text in ("", "a long document\n"):
        assert resume.standard_input(run, words, Came(text)) == ""
        assert resume.standard_input(run, [], Came(text)) == ""
    assert resume.standard_input(run, [], Came("else")) == "left out: the run in st.h5 has its question"
    with pytest.raises(Unservable, match=r"are another question than that of the run in st\.h5"):
        resume.standard_input(run, words, Came("else"))
    many = run_of({**SHORT, "prompt": None, "prompts": "f"})
    assert resume.standard_input(many, [], Came("else")) == "left out: the run in st.h5 has its prompts"
