"""Patches: fitted, saved in a file, and put in a lost block's place by a real run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from places import ROOT
from running import assert_refused, fit_it, mpirun, sentence, tokens_of, words_for

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.model import activations, checkpoint, patch
from jarvis_mpi.model.head import Head
from jarvis_mpi.model.stage import Stage
from jarvis_mpi.model.tokenizer import Text
from jarvis_mpi.protocol.cluster import Cluster, Hop, Policy
from jarvis_mpi.protocol.expected_loss import ExpectedLoss
from jarvis_mpi.protocol.node_state import State
from jarvis_mpi.record import replay
from jarvis_mpi.record.reader import load
from jarvis_mpi.record.study_file import costs_in
from jarvis_mpi.study import patch_fitting, whole_model

WIDTH = 16


@pytest.fixture
def linear():
    """Return states before and after a linear block: one channel is huge, and so is each text's first position."""
    torch.manual_seed(0)
    x = torch.randn(40, 20, WIDTH) @ torch.randn(WIDTH, WIDTH)
    x[..., 3] *= 300
    down = torch.randn(WIDTH, 4) @ torch.randn(4, WIDTH) / x.flatten(0, 1).std(0)[:, None]
    y = x + (x - 1) @ down + 2
    x[:, 0], y[:, 0] = 1000, 1500
    sums = patch_fitting.Sums()
    for part in range(0, 40, 5):
        sums.add({2: x[part : part + 5], 4: y[part : part + 5]}, [(2, 4), (2, 2), (4, 4)])
    return sums, x, y


@pytest.mark.parametrize("rank", [0, 4])
def test_least_squares_find_a_linear_block_streamed(linear, rank):
    sums, x, y = linear
    units, full = patch_fitting.least_squares(sums, 2, 4, rank)
    assert torch.allclose(units.mean, x[:, 1:].flatten(0, 1).mean(0), rtol=1e-3, atol=1e-3)
    patched = full.patch(units)(x)
    left, was = ((each - y)[:, 1:].square().mean((0, 1)).sum() for each in (patched, x))
    assert left < 0.05 * was
    assert torch.allclose(patched[:, 0], y[:, 0])  # its own shift
    assert full.patch(units).down.shape == (WIDTH, rank or WIDTH)


def test_a_rank_too_low_is_worse(linear):
    sums, x, y = linear
    left = []
    for rank in (4, 1):
        units, full = patch_fitting.least_squares(sums, 2, 4, rank)
        left.append((full.patch(units)(x) - y)[:, 1:].square().sum().item())
    assert left[1] > 2 * left[0]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text", "gpt2", "qwen3"])
def test_a_model_entered_half_way_ends_as_it_would_have(family, tmp_path):
    whole = whole_model.Whole(tiny.make(family, tmp_path), torch.float32)
    ids = torch.randint(3, 97, (2, 20), generator=torch.Generator().manual_seed(1))
    seen, final = whole.states(ids, [0, 3, tiny.LAYERS])
    for layer in (3, tiny.LAYERS):
        assert torch.equal(whole.behind(layer, seen[layer]), final)
    logits = whole.model(input_ids=ids).logits
    assert torch.allclose(whole.logits(final), logits, atol=1e-5)
    some = torch.tensor([5, 50, 7])
    assert torch.allclose(whole.logits(final[0], some), logits[0][:, some], atol=1e-5)
    expected = -torch.log_softmax(logits[:, :-1], -1).gather(2, ids[:, 1:, None]).mean()
    assert whole.nats(final, ids) == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("rank", [0, 8])
def test_distillation_comes_nearer_to_the_whole_model(rank, tmp_path):
    whole = whole_model.Whole(tiny.make("llama", tmp_path), torch.float32)
    ids = torch.randint(3, 97, (8, 32), generator=torch.Generator().manual_seed(1))
    seen, final = whole.states(ids, [2, 4])
    sums = patch_fitting.Sums()
    sums.add(seen, [(2, 2), (2, 4), (4, 4)])
    units, start = patch_fitting.least_squares(sums, 2, 4, rank)
    losses = []

    def each(step: int, now: patch_fitting.Fit) -> None:
        with torch.no_grad():
            ours = torch.log_softmax(whole.logits(whole.behind(4, now.patch(units)(seen[2]))), -1)
            theirs = torch.log_softmax(whole.logits(final), -1)
        losses.append((theirs.exp() * (theirs - ours)).sum(-1).mean().item())

    lesson = patch_fitting.Lesson(seen[2], final, patch_fitting.likely(whole, final))
    patch_fitting.train(whole, lesson, units, start, 4, 40, 0.03, each)
    assert losses[-1] < 0.8 * losses[0], losses


# -- the file


def made(width: int, holes: list[range], seed: int = 3) -> dict:
    dice = torch.Generator().manual_seed(seed)
    return {
        hole: patch.Patch(
            torch.randn(width, width, generator=dice) / width, None, *torch.randn(3, width, generator=dice)
        )
        for hole in holes
    }


def saved_patches(path: Path, folder: Path, patches: dict, **losses: float) -> Path:
    costs = {hole: {"skipped": 0.9, "patched": 0.12, "how": "by hand"} for hole in patches}
    patch.write(path, patches, patch.PatchInfo(checkpoint.fingerprint(folder), "d1", costs))
    return path


def test_a_file_of_patches_comes_back_as_it_went(tmp_path):
    folder = tiny.make("llama", tmp_path / "model")
    full = made(32, [range(1, 3)])
    low = {range(1, 5): patch.Patch(torch.randn(32, 4) / 6, torch.randn(4, 32) / 6, *torch.randn(3, 32))}
    path = saved_patches(tmp_path / "p.safetensors", folder, full | low)
    info = patch.read(path)
    assert info.patched == {range(1, 3), range(1, 5)}
    assert ExpectedLoss(*info.losses).sentence(range(1, 3), range(1, 3)) == "expected loss 0.12 nats a token"
    x = torch.randn(1, 5, 32)
    put = patch.Patches(path, torch.float32)
    for hole, fitted in (full | low).items():
        y = activations.from_bytes(put(hole, activations.to_bytes(x), 7), 32, torch.float32)
        assert torch.allclose(y, fitted(x, 7), rtol=0.02, atol=0.05)  # bfloat16
        first = activations.from_bytes(put(hole, activations.to_bytes(x), 0), 32, torch.float32)
        assert torch.equal(first[:, 1:], y[:, 1:])
        assert torch.equal(first[:, 0], x[:, 0] + fitted.first)


@pytest.mark.parametrize(("content", "sentence"), [(None, "cannot be read"), (b"no", "cannot be read")])
def test_what_is_no_file_of_patches_is_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "p.safetensors"
    if content:
        path.write_bytes(content)
    with pytest.raises(Unservable, match=sentence):
        patch.read(path)
    weights = tiny.make("llama", tmp_path / "model") / "model.safetensors"
    with pytest.raises(Unservable, match="holds no patches: make it by python -m jarvis_mpi fit-patches"):
        patch.read(weights)


# -- the route


PLACEMENT = {0: (range(0, 1), range(7, 8)), 1: (range(1, 3),), 2: (range(3, 5),), 3: (range(5, 7),)}
DEAD = {2: State.GONE, 3: State.GONE}


@pytest.mark.parametrize(
    ("patches", "patchers", "ladder", "expected"),
    [
        ([range(3, 5), range(5, 7)], {0, 1}, ("patch", "skip"), [Hop(1, range(3, 5), patch=True), Hop(1, range(5, 7), patch=True)]),
        ([range(3, 5), range(3, 7)], {0, 1}, ("patch", "skip"), [Hop(1, range(3, 7), patch=True)]),
        ([range(5, 7)], {0, 1}, ("patch", "skip"), [Hop(1, range(5, 7), patch=True)]),
        ([range(3, 7)], {0}, ("patch", "skip"), []),
        ([range(3, 7)], {0, 1}, ("copy", "skip"), []),
        ([range(1, 3)], {0, 1}, ("patch", "skip"), []),
    ],
)  # fmt: skip
def test_the_node_before_a_hole_patches_what_it_can(patches, patchers, ladder, expected):
    cluster = Cluster(
        PLACEMENT,
        policy=Policy(ladder),
        patches=frozenset(patches),
        patchers=frozenset(patchers),
        states=DEAD,
    )
    first, last = [Hop(0, range(0, 1)), Hop(1, range(1, 3))], [Hop(0, range(7, 8))]
    assert list(cluster.route()) == [*first, *expected, *last]


def test_patched_layers_are_not_counted_as_skipped():
    policy = Policy(("patch", "skip"), 2, frozenset({3, 4}))
    cluster = Cluster(
        PLACEMENT, policy=policy, patches=frozenset([range(3, 5)]), patchers=frozenset([1]), states=DEAD
    )
    assert [hop.patch for hop in cluster.route()] == [False, False, True, False]
    with pytest.raises(Unservable, match="--never-skip"):
        Cluster(PLACEMENT, policy=policy, states=DEAD).route()


def test_what_a_study_tells_decides_what_is_copied_and_never_skipped():
    singles = {frozenset({layer}): cost for layer, cost in enumerate((7.5, 0.2, 1.5, 0.9))}
    loss = ExpectedLoss({**singles, frozenset({1, 2}): 2.0, frozenset({3}): 0.9}, {range(1, 3): 0.1})
    assert loss.never_skip() == {0, 2}
    assert loss.worst([range(1, 3), range(3, 4)], 1) == [range(3, 4)]  # the other one has a patch
    with pytest.raises(Unservable, match="what layers 4-5 are worth is not known: say --study FILE"):
        loss.worst([range(4, 6)], 1)
    with pytest.raises(Unservable, match="--never-skip auto needs a study of every single layer"):
        ExpectedLoss().never_skip()


# -- real runs


def chained(folder: Path, ids: list[int], count: int, path: Path, gone: set[range], since: int) -> list[int]:
    """Return the tokens of one process: all layers until step `since`, then the patches of `gone` in their place."""
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
    path = saved_patches(tmp_path / "p.safetensors", small, made(32, [range(2, 3), range(4, 5)]))
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
def test_patches_of_another_model_or_none_are_one_sentence(small, tmp_path):
    other = saved_patches(
        tmp_path / "p.safetensors", tiny.make("qwen3", tmp_path / "other"), made(32, [range(2, 3)])
    )
    log = tmp_path / "run.h5"
    assert "was fitted to another model" in sentence(
        mpirun(3, *words_for(small, log, "--patches", str(other)))
    )
    gone = tmp_path / "gone"
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
def test_copies_of_the_worst_blocks_alone(small, tmp_path):
    patches = made(32, [range(1, 2), range(2, 3), range(3, 4), range(4, 5)])
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
    assert [event.block for event in load(log).events if event.event == "copy"] == [
        range(4, 5)
    ]  # and not another's


@pytest.mark.mpirun
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
