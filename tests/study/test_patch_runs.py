"""Patches in real runs, the command that fits them, and what a study says to a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from patch_files import random_patches, saved_patches
from places import ROOT
from running import assert_refused, fit_it, mpirun, sentence, tokens_of, words_for

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.model import checkpoint, patch
from jarvis_mpi.model.head import Head
from jarvis_mpi.model.stage import Stage
from jarvis_mpi.model.tokenizer import Text
from jarvis_mpi.record import replay
from jarvis_mpi.record.reader import load
from jarvis_mpi.record.study_file import costs_in

pytestmark = pytest.mark.slow


def chained(folder: Path, ids: list[int], count: int, path: Path, gone: set[range], since: int) -> list[int]:
    """Return the tokens of one process: all layers until step `since`, then the patches of `gone` in their
    place."""
    blocks = [range(0, 1), range(1, 2), range(2, 3), range(3, 4), range(4, 5), range(5, 6)]
    head, put = Head(folder, torch.float32), patch.Patches(path, torch.float32)
    stages = {block: Stage(folder, block, torch.float32) for block in blocks}
    start, text = 0, list(ids)
    for step in range(count):
        body = head.embed(text[start:], start)
        holes = gone if step >= since else set()
        for block in blocks:
            body = put(block, body, start) if block in holes else stages[block].run(body, start)
        start = len(text)
        text.append(int(head.logits(body).argmax()))
    return text[len(ids) :]


@pytest.mark.mpirun
def test_two_nodes_die_and_their_patches_stand_in(small, tmp_path):
    path = saved_patches(tmp_path / "p.safetensors", small, random_patches(32, [range(2, 3), range(4, 5)]))
    log = tmp_path / "run.h5"
    words = words_for(
        small,
        log,
        "--patches",
        str(path),
        "--copies",
        "0",
        "--max-skipped",
        "0",
        "--ignore-eos",
        "--dtype",
        "float32",
    )
    done = mpirun(5, *words, "--fault", "kill 2 @ 3; kill 4 @ 5")
    printed = done.stderr.decode()
    assert done.returncode == 0, printed
    for line in (
        "node 2 lost at step 3: layer 2 patched: expected loss 0.12 nats a token",
        "node 4 lost at step 5: layer 4 patched: expected loss 0.12 nats a token",
    ):
        assert line in printed, printed
    run = load(log)
    patched = run.hops[run.hops["patch"] == 1]
    assert {(hop["node"], hop["first_layer"], hop["layers"]) for hop in patched} == {(1, 2, 1), (3, 4, 1)}
    lines = list(replay.replayed(log))
    assert any("patch" in line for line in lines)
    assert not any("NOT" in line for line in lines)
    # One process with the patches gives the same; without them it would not.
    tokens, ids = tokens_of(log), Text(small).ids_of("abc")
    steps = run.tokens["step"].tolist()
    first, second = (next(at for at, step in enumerate(steps) if step >= wanted) for wanted in (3, 5))
    expected = chained(small, ids, second, path, {range(2, 3)}, first)
    assert tokens[:second] == expected
    skipped = mpirun(
        5,
        *words_for(small, tmp_path / "s.h5", "--copies", "0", "--ignore-eos", "--dtype", "float32"),
        "--fault",
        "kill 2 @ 3; kill 4 @ 5",
    )
    assert skipped.returncode == 0
    assert tokens_of(tmp_path / "s.h5") != tokens


@pytest.mark.mpirun
def test_patches_of_another_model_are_one_sentence(small, tmp_path):
    other = saved_patches(
        tmp_path / "p.safetensors", tiny.make("qwen3", tmp_path / "other"), random_patches(32, [range(2, 3)])
    )
    log = tmp_path / "run.h5"
    assert "was fitted to another model" in sentence(
        mpirun(3, *words_for(small, log, "--patches", str(other)))
    )


@pytest.mark.mpirun
@pytest.mark.very_slow
def test_patches_that_are_not_there_and_no_study_are_one_sentence(small, tmp_path):
    gone, log = tmp_path / "gone", tmp_path / "run.h5"
    assert f"--patches {gone} cannot be read" in sentence(
        mpirun(3, *words_for(small, log, "--patches", str(gone)))
    )
    assert "--never-skip auto needs a study of every single layer" in sentence(
        mpirun(3, *words_for(small, log, "--never-skip", "auto"))
    )


# -- the command


def test_fit_patches_writes_what_is_better_than_skipping(small, tmp_path):
    out = tmp_path / "made" / "p.safetensors"
    words = [
        "--model",
        str(small),
        "--text",
        "README.md",
        "--workers",
        "2",
        "--tokens",
        "1024",
        "--steps",
        "10",
    ]
    done = fit_it(*words, "--out", str(out))
    assert done.returncode == 0, done.stderr
    info = patch.read(out)
    assert set(info.holes) == {range(1, 3), range(3, 5), range(1, 5)}
    for cost in info.holes.values():
        assert cost["patched"] is None or cost["patched"] < cost["skipped"]
    again = fit_it(*words, "--out", str(tmp_path / "again.safetensors"))
    assert patch.read(tmp_path / "again.safetensors").digest == info.digest, again.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--text", "/nowhere"], "/nowhere"),
        (["--text", "hostfiles/local"], "tokens: give it"),
        (["--text", "README.md", "--split", "9"], "--split 9 names"),
        (["--text", "README.md", "--model", "none"], "there is no model 'none'"),
    ],
)
def test_what_cannot_be_fitted_is_one_sentence(small, tmp_path, words, reason):
    assert_refused(reason, small, tmp_path / "p", *words)


# -- a study's costs in a run


@pytest.mark.mpirun
@pytest.mark.very_slow
def test_copies_of_the_worst_blocks_alone(small, tmp_path):
    patches = random_patches(32, [range(1, 2), range(2, 3), range(3, 4), range(4, 5)])
    path, folder = tmp_path / "p.safetensors", checkpoint.fingerprint(small)
    costs = {hole: {"skipped": 3.0, "patched": 0.1 * hole.start, "how": "by hand"} for hole in patches}
    patch.write(path, patches, patch.PatchInfo(folder, "d1", costs))
    log = tmp_path / "run.h5"
    words = words_for(small, log, "--patches", str(path), "--copied-blocks", "1", "--ignore-eos")
    done = mpirun(5, *words, "--max-new-tokens", "40", "--fault", "kill 1 @ 3; kill 4 @ 6")
    assert done.returncode == 0, done.stderr.decode()
    assert "node 4 lost at step 6: layer 4 from the copy on node 3" in done.stderr.decode()
    assert "node 1 lost at step 3: layer 1 patched: expected loss 0.10 nats a token" in done.stderr.decode()
    assert not any("NOT" in line for line in replay.replayed(log))
    # And not another's.
    assert [event.block for event in load(log).events if event.event == "copy"] == [range(4, 5)]


@pytest.mark.mpirun
@pytest.mark.very_slow
def test_a_study_tells_which_layers_are_never_skipped(small, tmp_path):
    study, log = tmp_path / "study.h5", tmp_path / "run.h5"
    words = ["study", "--model", str(small), "--cases", "singles", "--tokens", "60", "--log", str(study)]
    made_it = subprocess.run(
        [sys.executable, "-m", "jarvis_mpi", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert made_it.returncode == 0, made_it.stderr
    costs = costs_in(study, tiny.LAYERS)
    assert set(costs) == {frozenset({layer}) for layer in range(tiny.LAYERS)}
    done = mpirun(3, *words_for(small, log, "--study", str(study), "--never-skip", "auto"))
    assert done.returncode == 0, done.stderr.decode()
    never_skip = load(log).attributes["policy"]["never_skip"]
    assert never_skip == sorted(min(case) for case, cost in costs.items() if cost > 1.0)
    with pytest.raises(Unservable, match="is of a model with 6 layers, this one has 30"):
        costs_in(study, 30)
    printed = sentence(
        mpirun(3, *words_for(small, tmp_path / "b.h5", "--study", str(log), "--never-skip", "auto"))
    )
    assert f"--study {log} is no study" in printed
