"""Real mpirun, real weights: the chain says what one process says; what goes wrong is one sentence."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import tiny
import torch
from running import (
    GEMMA,
    PROMPT,
    assert_nothing_is_left,
    kill,
    mpirun,
    needs_gemma,
    processes,
    sentence,
    start,
    tokens_of,
    words_for,
)
from transformers import AutoModelForCausalLM

from jarvis_mpi.model import checkpoint
from jarvis_mpi.model.tokenizer import Text
from jarvis_mpi.record.reader import load

pytestmark = pytest.mark.mpirun


@pytest.fixture(scope="module", params=["smollm2-135m-instruct", pytest.param(GEMMA, marks=needs_gemma)])
def expected(request):
    """(model, what transformers.generate says in float32: 64 tokens)."""
    folder = checkpoint.locate(request.param)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([Text(folder).ids_of(PROMPT)])
    answer = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, do_sample=False)
    return request.param, answer[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("ranks", [2, pytest.param(9, marks=pytest.mark.very_slow)])
def test_float32_gives_the_tokens_of_generate_on_any_number_of_ranks(expected, ranks, tmp_path):
    model, tokens = expected
    log = tmp_path / "run.h5"
    done = mpirun(
        ranks,
        "--model",
        model,
        "--dtype",
        "float32",
        "--prompt",
        PROMPT,
        "--max-new-tokens",
        "64",
        "--log",
        str(log),
    )
    assert done.returncode == 0, done.stderr.decode()
    assert tokens_of(log) == tokens
    # The answer alone is on standard output.
    text = Text(checkpoint.locate(model))
    assert done.stdout.decode().strip() == text.tokenizer.decode(tokens, skip_special_tokens=True).strip()


@pytest.mark.very_slow
def test_bfloat16_differs_from_generate_at_a_near_tie_at_most(tmp_path):
    folder = checkpoint.locate("smollm2-135m-instruct")
    log = tmp_path / "run.h5"
    done = mpirun(4, "--dtype", "bfloat16", "--prompt", PROMPT, "--max-new-tokens", "64", "--log", str(log))
    assert done.returncode == 0, done.stderr.decode()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    prompt, ours = Text(folder).ids_of(PROMPT), tokens_of(log)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + ours[:-1]])).logits[0, len(prompt) - 1 :].float()
    theirs = logits.argmax(-1).tolist()
    differing = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    for step in differing:  # each on the text so far, so one difference does not count as many
        margin = float(logits[step, theirs[step]] - logits[step, ours[step]])
        print(
            f"step {step}: {ours[step]} for {theirs[step]}, "
            f"margin {margin:.3f} of {float(logits[step].max()):.1f}"
        )
        assert margin < 0.02 * float(logits[step].abs().max()), (
            "bfloat16 keeps 8 bits: 2 % of the largest logit"
        )


@pytest.mark.very_slow
def test_a_seed_gives_the_same_text_on_any_number_of_ranks(tmp_path):
    drawn = {}
    for ranks in (2, 5):
        log = tmp_path / f"{ranks}.h5"
        words = ("--dtype", "float32", "--temperature", "0.9", "--top-p", "0.95", "--seed", "7")
        done = mpirun(ranks, *words, "--prompt", PROMPT, "--max-new-tokens", "32", "--log", str(log))
        assert done.returncode == 0, done.stderr.decode()
        drawn[ranks] = tokens_of(log)
    assert drawn[2] == drawn[5]


@pytest.mark.very_slow
def test_more_workers_than_layers_wait_as_spares_and_say_so(small, tmp_path):
    done = mpirun(9, *words_for(small, tmp_path / "run.h5"))
    assert done.returncode == 0, done.stderr.decode()
    assert "node 5, 6, 7, 8 waits as a spare" in done.stderr.decode()
    run = load(tmp_path / "run.h5")
    assert len(run.tokens) == 8
    assert set(run.hops["node"]) == {0, 1, 2, 3, 4}
    assert (run.hops["compute_s"] > 0).all()


@pytest.mark.very_slow
def test_a_split_by_hand_and_one_by_memory_run(small, tmp_path):
    texts = set()
    for split in ("1,3", "memory"):
        log = tmp_path / f"{split}.h5"
        done = mpirun(3, *words_for(small, log, "--split", split))
        assert done.returncode == 0, done.stderr.decode()
        texts.add(tuple(tokens_of(log)))
    assert len(texts) == 1


def test_a_kind_of_model_that_cannot_be_cut_is_one_sentence(small, tmp_path):
    encoder = shutil.copytree(small, tmp_path / "encoder")
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps({**config, "model_type": "t5"}))
    assert "is a model of kind 't5'" in sentence(mpirun(4, *words_for(encoder, tmp_path / "run.h5")))


@pytest.mark.parametrize(
    ("ranks", "more", "expected_sentence"),
    [
        (1, [], "there is no worker: start at least two ranks"),
        pytest.param(
            3,
            ["--split", "1,2"],
            "--split 1,2 names 2 workers and 3 layers, but there are 2 workers for 4 layers",
            marks=pytest.mark.very_slow,
        ),
        (3, ["--model", "no-such-model"], "there is no model 'no-such-model'"),
        (3, ["--top-p", "7"], "--top-p is 7.0, but must be between"),
        (3, ["--prompt", ""], "there is no prompt"),
        (3, ["--prompt", "x" * 200], "the prompt has 200 tokens, the model takes 128"),
        (3, ["--log", "/proc/run.h5"], "--log /proc/run.h5 cannot be written"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_a_status(small, tmp_path, ranks, more, expected_sentence):
    done = mpirun(ranks, *words_for(small, tmp_path / "run.h5", *more))
    assert expected_sentence in sentence(done)


def test_a_truncated_weights_file_is_one_sentence(small, tmp_path):
    broken = shutil.copytree(small, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert "it is damaged, fetch it again" in sentence(mpirun(4, *words_for(broken, tmp_path / "run.h5")))


def test_a_start_without_fault_tolerance_says_how_to_switch_it_on(small, tmp_path):
    before = ["env", "OMPI_MCA_mpi_ft_enable=0"]
    done = mpirun(3, *words_for(small, tmp_path / "run.h5"), before=before)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.decode().count("python -m jarvis_mpi setup switches it on") == 1


@pytest.mark.parametrize(
    ("words", "sentence_part"),
    [
        (["--fault", "explode 3"], "--fault 'explode 3' is not an order such as"),
        (["--fault", "kill 7 @ 3"], "--fault names node 7, but the workers are 1 to 2"),
        pytest.param(
            ["--never-skip", "9"],
            "--never-skip '9' is not 'none', 'first,last' or layers from 0 to 5",
            marks=pytest.mark.very_slow,
        ),
        (["--silence-s", "0.3"], "--silence-s is 0.3, but must be at least 3 times --beat-s"),
        (["--copies", "-1"], "--copies is -1, but must be at least 0"),
    ],
)
def test_what_is_asked_of_faults_wrongly_is_one_sentence(small, tmp_path, words, sentence_part):
    assert sentence_part in sentence(mpirun(3, *words_for(small, tmp_path / "run.h5", *words)))


def as_rank(rank: int, module: str, folder: Path) -> list[str]:
    """Words before python that make `rank` run `module` from `folder` in jarvis_mpi's place."""
    choice = (
        f'if [ "$PMIX_RANK" = {rank} ]; then m={module}; export PYTHONPATH={folder}; else m=jarvis_mpi; fi'
    )
    return ["sh", "-c", f'python=$0; shift 2; {choice}; exec $python -m $m "$@"']


def test_a_node_with_another_model_is_named(small, tmp_path):
    """Each host has its own file behind the same name."""
    other = tiny.make("qwen3", tmp_path / "other", vocab_size=300)
    for rank in ("0", "1", "2"):
        (tmp_path / rank).mkdir()
        (tmp_path / rank / "model").symlink_to(other if rank == "2" else small)
    before = ["sh", "-c", f'cd {tmp_path}/$PMIX_RANK; exec "$0" "$@"']
    done = mpirun(3, *words_for(Path("model"), tmp_path / "run.h5"), before=before)
    assert "node 2" in sentence(done)
    assert "has other model files than the end user" in sentence(done)


def test_a_node_with_another_version_is_named(small, tmp_path):
    (tmp_path / "jarvis_mpi_old.py").write_text(
        "import jarvis_mpi, runpy, sys\n"
        "jarvis_mpi.__version__ = '0.0.1'\nrunpy.run_module('jarvis_mpi', run_name='__main__')\n"
    )
    before = as_rank(1, "jarvis_mpi_old", tmp_path)
    done = mpirun(3, *words_for(small, tmp_path / "run.h5"), before=before)
    assert "has jarvis_mpi 0.0.1, the end user" in sentence(done)


def test_a_worker_that_fails_while_loading_says_why_and_is_bypassed(small, tmp_path):
    """Its weights vanish between the check and the load."""
    (tmp_path / "failing.py").write_text(
        "import runpy, jarvis_mpi.model.weights as w\n"
        "def fill(*_, **__): raise RuntimeError('the SD card is gone')\n"
        "w.fill = fill\nrunpy.run_module('jarvis_mpi', run_name='__main__')\n"
    )
    before = as_rank(2, "failing", tmp_path)
    done = mpirun(3, *words_for(small, tmp_path / "run.h5"), before=before)
    errors = done.stderr.decode()
    assert done.returncode == 0, errors
    assert "node 2 lost before the first token" in errors
    assert "): RuntimeError: the SD card is gone" in errors
    assert "Traceback" not in errors
    run = load(tmp_path / "run.h5")
    words = [event.text for event in run.events if (event.event, event.node) == ("words", 2)]
    assert len(words) == 1
    assert "in fill" in words[0]
    assert len(run.tokens) == 8
    assert (run.tokens["layers"] == tiny.LAYERS).all()  # the copy has the layers


@pytest.mark.parametrize(("way", "sentence_of"), [("kill", "the end user (node 0) died"), ("Ctrl-C", "")])
def test_without_the_end_user_the_workers_leave_within_seconds(way, sentence_of, tmp_path):
    words = ("--prompt", PROMPT, "--max-new-tokens", "2000", "--log", str(tmp_path / "run.h5"))
    run = start(4, *words, "--standby", "0")
    try:
        run.stdout.read(20)  # the answer comes
        if way == "kill":
            kill(processes(rank=0))
        else:
            for process in processes("prterun"):
                os.kill(process, signal.SIGINT)
        begun = time.monotonic()
        _, errors = run.communicate(timeout=60)
    finally:
        run.terminate()  # the time limit's process, which hands it on to mpirun
    assert run.returncode not in (0, 124), errors.decode()
    assert "Traceback" not in errors.decode()
    assert errors.decode().count(sentence_of) == 1 or not sentence_of, errors.decode()
    assert_nothing_is_left()
    assert time.monotonic() - begun < 15
    assert len(load(tmp_path / "run.h5").tokens) > 1
