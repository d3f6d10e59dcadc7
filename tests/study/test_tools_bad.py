"""fit-patches and fit-draft: a limit is told before any work, and no file is lost."""

import pytest
import texts
import tiny

from jarvis_mpi.common import prompt_file
from jarvis_mpi.study import fit_draft, fit_patches

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny.make("gpt2", tmp_path_factory.mktemp("model"), vocab_size=258)  # its positions end
    return texts.of_bytes(folder, words=["<new>", "<newer>"])


@pytest.mark.parametrize(("main", "words"), [
    *((fit_patches.main, f"--text x {words}") for words in ("--workers 0", "--rank -1", "--tokens 0",
                                                            "--steps -1", "--rate nan", "--threads -1")),
    *((fit_draft.main, f"--prompts x {words}") for words in (
        "--layers -1", "--answer-tokens 0", "--passes 0", "--rate 0", "--rate inf", "--threads -1")),
])  # fmt: skip
def test_numbers_of_the_fits_have_limits_too(main, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1
    assert words.split()[2] in printed
    assert "but must be" in printed


def test_a_draft_is_not_written_over_the_model(model, tmp_path, capsys):
    path = tmp_path / "p.txt"
    path.write_text("hello\n" * 40)
    before = {each.name: each.stat().st_mtime_ns for each in model.iterdir()}
    for out, reason in (
        (model, "is the model itself"),
        (path, "is no folder: name one"),
        (path / "x", "is no folder"),
    ):
        assert fit_draft.main(["--model", str(model), "--prompts", str(path), "--out", str(out)]) == 2
        assert reason in capsys.readouterr().err
    assert {each.name: each.stat().st_mtime_ns for each in model.iterdir()} == before
    words = ["--model", str(model), "--text", str(path), "--workers", "2", "--out"]
    for place in (str(tmp_path), ".", "/dev/full"):
        assert fit_patches.main([*words, place]) == 2
        assert f"--out {place} is no file: name one" in capsys.readouterr().err


def test_a_draft_learns_from_good_prompts_beside_bad_ones(model, tmp_path, capsys):
    path, out = tmp_path / "p.txt", tmp_path / "draft"
    path.write_bytes(b"\xff\n" + b"w" * 500 + b"\n" + b"y" * 120 + b"\n" + b"hello\n" * 40)
    words = ["--model", str(model), "--prompts", str(path), "--layers", "2", "--answer-tokens", "16"]
    assert fit_draft.main([*words, "--passes", "1", "--out", str(out)]) == 1
    printed = capsys.readouterr().err
    assert f"--prompts {path}: line 1 is not UTF-8 text" in printed
    assert f"--prompts {path}: line 2: the prompt has " in printed
    assert f"{out}: 2 of 6 layers, without 2 of --prompts (see above)" in printed
    assert len(prompt_file.read(path)) == 43
