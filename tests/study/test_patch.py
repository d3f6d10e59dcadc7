"""Patches: fitted, saved in a file, and put in a lost block's place on the route."""

import pytest
import tiny
import torch
from patch_files import random_patches, saved_patches

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.model import activations, patch
from jarvis_mpi.protocol.cluster import Cluster, Hop, Policy
from jarvis_mpi.protocol.expected_loss import ExpectedLoss
from jarvis_mpi.protocol.node_state import State
from jarvis_mpi.study import patch_fitting, whole_model

pytestmark = pytest.mark.slow

WIDTH = 16


@pytest.fixture
def linear():
    """Return states before and after a linear block: one channel is huge, and so is each text's first
    position."""
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

    lesson = patch_fitting.PatchLesson(seen[2], final, patch_fitting.likely(whole, final))
    patch_fitting.train(whole, lesson, units, start, 4, 40, 0.03, each)
    assert losses[-1] < 0.8 * losses[0], losses


# -- the file


def test_a_file_of_patches_comes_back_as_it_went(tmp_path):
    folder = tiny.make("llama", tmp_path / "model")
    full = random_patches(32, [range(1, 3)])
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
DEAD = {2: State.LOST, 3: State.LOST}


@pytest.mark.parametrize(
    ("patches", "patchers", "ladder", "expected"),
    [
        ([range(3, 5), range(5, 7)], {0, 1}, ("patch", "skip"), [Hop(1, range(3, 5), patch=True),
                                                                 Hop(1, range(5, 7), patch=True)]),
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
