"""python -m jarvis_mpi fit-patches: fit small linear maps that stand in for lost blocks.

    python -m jarvis_mpi fit-patches --model M --text prose.txt --workers 8 --out patches.safetensors
    mpirun -n 9 python -m jarvis_mpi --model M --patches patches.safetensors

One process holds the whole model once, in float32, and streams the text through it: about 25,000 tokens to
fit, 1,500 more to choose by. It patches the blocks of the workers, by --split, and every two neighbours. The
closed form comes first; where it wins back less than half of the cost of skipping, it is distilled. A patch
that is not better than skipping is left out.
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.boundary import guarded
from ..common.errors import Unservable
from ..common.given_file import text_of
from ..common.layers import END_USER, Block, is_whole, layers, named
from ..common.settings import DEFAULT_MODEL
from ..model import checkpoint, patch
from ..protocol import placement as blocks
from .tool import ToolParser, options, refuse_place, use_threads

if TYPE_CHECKING:
    from .patch_fitting import Fit, PatchLesson, Sums
    from .whole_model import Whole

WINDOW = 256  # tokens at the most, each from position 0
CHOOSING = 6  # windows to choose by
SHRINK = (1.0, 0.75, 0.5, 0.25)  # factors of the closed form's map, tried while they are better
HALF = 0.5  # of the loss: a closed form that wins back less is distilled
LIMITS = {
    "workers": (1, None), "rank": (0, None), "tokens": (1, None), "steps": (0, None), "rate": (1e-9, 1.0),
    "threads": (0, None),
}  # fmt: skip
EVERY = 10  # steps of distillation between two trials on the text to choose by


def parser() -> ToolParser:
    made = ToolParser(
        prog="python -m jarvis_mpi fit-patches",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--model", default=DEFAULT_MODEL, help="(default: %(default)s)")
    add(
        "--text", type=Path, required=True, help="running text of the kind that the model will read and write"
    )
    add("--workers", type=int, default=8, help="as many as the run has (default: %(default)s)")
    add(
        "--split",
        default="even",
        help="the run's: even, or layer counts such as 2,3,3 (default: %(default)s)",
    )
    add("--end-user-layers", default="first,last", help="the run's (default: %(default)s)")
    add("--rank", type=int, default=0, help="of the maps; 0: full (default: %(default)s)")
    add("--tokens", type=int, default=24_576, help="of the text, to fit by (default: %(default)s)")
    add("--steps", type=int, default=40, help="of distillation; 0: none (default: %(default)s)")
    add("--rate", type=float, default=1e-3, help="of distillation (default: %(default)s)")
    add("--threads", type=int, default=0, help="0: as torch chooses (default: %(default)s)")
    add("--out", type=Path, default=Path("patches.safetensors"), help="(default: %(default)s)")
    return made


class Fitting:
    """Fits the patches of all holes, over one pass of the text; the first `lessons` windows are held for
    distillation."""

    def __init__(
        self, whole: "Whole", train: Any, choose: Any, holes: Sequence[Block], lessons: int, tick: Any
    ):
        from . import patch_fitting

        self.whole, self.choose, self.tick = whole, choose, tick
        self.starts = sorted({hole.start for hole in holes})
        at = sorted({end for hole in holes for end in (hole.start, hole.stop)})
        pairs = {pair for hole in holes for pair in ((hole.start, hole.stop),)} | {(end, end) for end in at}
        self.sums: Sums = patch_fitting.Sums()
        x: dict[int, list[Any]] = {start: [] for start in self.starts}
        finals: list[Any] = []
        for ids in train.split(patch_fitting.AT_ONCE):
            seen, final = whole.states(ids, at)
            self.sums.add(seen, pairs)
            if len(finals) * patch_fitting.AT_ONCE < lessons:
                finals.append(final)
                for start in self.starts:
                    x[start].append(seen[start])
            tick(len(ids))
        self.x, self.finals = x, finals
        self.seen, final = whole.states(choose, self.starts)
        self.base = whole.nats(final, choose)
        self.likely: Any = None

    def loss(self, hole: Block, patch: "patch.Patch | None" = None) -> float:
        """Return the nats a token above the whole model's, on the text to choose by."""
        import torch

        x = self.seen[hole.start]
        with torch.no_grad():
            final = self.whole.behind(hole.stop, patch(x) if patch else x)
        return self.whole.nats(final, self.choose) - self.base

    def lesson(self, hole: Block) -> "PatchLesson":
        import torch

        from . import patch_fitting

        finals = torch.cat(self.finals)
        if self.likely is None:
            self.likely = patch_fitting.likely(self.whole, finals)
        return patch_fitting.PatchLesson(torch.cat(self.x[hole.start]), finals, self.likely)

    def fitted(self, hole: Block, rank: int, steps: int, rate: float) -> "tuple[patch.Patch | None, dict]":
        """Return the best patch of all that are tried, and its costs for the file."""
        from . import patch_fitting

        begun = time.monotonic()
        skipped = self.loss(hole)
        units, full = patch_fitting.least_squares(self.sums, hole.start, hole.stop, rank)
        tried = []
        for by in SHRINK:
            made = full.scaled(by).patch(units, by)
            tried.append((self.loss(hole, made), f"closed form x {by:g}", made, by))
            best = min(tried, key=lambda each: each[0])
            if best is not tried[-1]:
                break
        if steps and best[0] > (1 - HALF) * skipped:
            by = best[3] if best[0] < skipped else 0.0

            def each(step: int, now: "Fit") -> None:
                if step % EVERY == 0 or step == steps:
                    made = now.patch(units)
                    tried.append((self.loss(hole, made), f"distilled {step} steps", made, 1.0))

            patch_fitting.train(
                self.whole, self.lesson(hole), units, full.scaled(by), hole.stop, steps, rate, each
            )
            best = min(tried, key=lambda each: each[0])
        self.tick(1)
        better = best[0] < skipped
        cost = {
            "skipped": round(skipped, 4),
            "patched": round(best[0], 4) if better else None,
            "how": best[1] if better else "skipping is better",
            "took_s": round(time.monotonic() - begun, 1),
        }
        return (best[2] if better else None), cost


def chained(first: "patch.Patch", second: "patch.Patch") -> Any:
    return lambda x: second(first(x))


def holes_of(asked: argparse.Namespace, depth: int) -> tuple[list[Block], list[tuple[Block, Block]]]:
    """Return the workers' blocks, and the neighbours among them. Raises Unservable."""
    placement = blocks.place(depth, asked.workers, split=asked.split, end_user_layers=asked.end_user_layers)
    owned = sorted(
        (block for node, held in placement.items() if node != END_USER for block in held),
        key=lambda block: block.start,
    )
    return owned, [pair for pair in pairwise(owned) if is_whole(pair)]


def cut(asked: argparse.Namespace, folder: Path) -> tuple[Any, Any]:
    """Return windows to fit by and windows to choose by, [W, tokens] each. Raises Unservable."""
    import torch

    from ..model.family import context_of, load_config
    from ..model.tokenizer import Text

    config = load_config(folder)
    text, size = Text(folder, config.vocab_size), min(WINDOW, context_of(config))
    words = text_of("--text", asked.text)
    try:
        ids = text.encode(words, begin=False)
    except Unservable as error:
        raise Unservable(f"--text {asked.text} cannot be fitted by: {error}") from None
    whole = [window for window in text.windows(ids, size) if len(window) == size]
    cut = torch.tensor(whole, dtype=torch.long).view(-1, size)
    if len(cut) < 3 * CHOOSING:
        raise Unservable(
            f"--text {asked.text} has {len(ids)} tokens: give it {3 * CHOOSING * size} or more, better"
            f" {asked.tokens + CHOOSING * size}"
        )
    cut = cut[torch.randperm(len(cut), generator=torch.Generator().manual_seed(0))]
    return cut[CHOOSING:][: max(1, asked.tokens // size)], cut[:CHOOSING]


class PatchFile:
    """--out: what was fitted until now, written again after every hole."""

    def __init__(self, asked: argparse.Namespace, folder: Path):
        self.asked, self.fingerprint = asked, checkpoint.fingerprint(folder)
        self.patches: dict[Block, patch.Patch] = {}
        self.costs: dict[Block, dict[str, Any]] = {}

    def keep(self, hole: Block, new: "patch.Patch | None", cost: dict[str, Any]) -> None:
        """A hole's patch, None where skipping is better, and what it was measured at. Raises Unservable."""
        from ..common.messages import say

        self.costs[hole] = cost
        if new:
            self.patches[hole] = new
        digest = hashlib.sha256()
        for each in self.patches.values():
            for part in (each.down, each.bias, each.first):
                digest.update(part.numpy().tobytes())
        with guarded(f"--out {self.asked.out} cannot be written"):
            written = patch.PatchInfo(self.fingerprint, digest.hexdigest()[:16], self.costs)
            patch.write(self.asked.out, self.patches, written)
        self.asked.is_written = True
        left = "" if cost["patched"] is None else f", {cost['patched']:.3f} with its patch"
        say(
            f"{named(hole)}: {cost['skipped']:.3f} nats a token lost{left} ({cost['how']}, "
            f"{cost['took_s']:.0f} s)"
        )

    def summary(self, singles: Sequence[Block]) -> str:
        lost = sum(self.costs[hole]["skipped"] for hole in singles)
        left = sum(self.costs[hole]["patched" if hole in self.patches else "skipped"] for hole in singles)
        out = self.asked.out
        return (
            f"{out}: {len(self.patches)} patches, {out.stat().st_size / 1e6:.1f} MB; "
            f"of {lost:.2f} nats lost by one block or another"
            f" {left:.2f} are left"
        )


def fit_all(asked: argparse.Namespace) -> None:
    """Fit and write all patches. Raises Unservable."""
    from ..common.messages import say
    from ..common.progress_bar import bar
    from ..model import trial
    from ..model.family import load_config, quiet

    quiet()
    folder = checkpoint.locate(asked.model, say, whole=True)
    trial.check(folder, say)
    depth = load_config(folder).num_hidden_layers
    singles, neighbours = holes_of(asked, depth)
    refuse_place("--out", asked.out)
    import torch

    from . import patch_fitting, whole_model

    use_threads(asked.threads)
    train, choose = cut(asked, folder)
    with guarded(f"--out {asked.out} cannot be written"):
        asked.out.parent.mkdir(parents=True, exist_ok=True)
    whole = whole_model.Whole(folder, torch.float32)
    unions = [range(a.start, b.stop) for a, b in neighbours]
    with bar(len(train), "text, windows") as tick:
        fitting = Fitting(
            whole, train, choose, [*singles, *unions], asked.steps * patch_fitting.AT_ONCE, tick
        )
    file = PatchFile(asked, folder)
    with bar(len(singles) + len(unions), "holes") as tick:
        fitting.tick = tick
        for hole in singles:
            file.keep(hole, *fitting.fitted(hole, asked.rank, asked.steps, asked.rate))
        for pair in neighbours:
            fit_neighbours(*pair, fitting, asked, file)
    say(file.summary(singles))


def fit_neighbours(a: Block, b: Block, fitting: Fitting, asked: argparse.Namespace, file: PatchFile) -> None:
    """A patch for both together, unless theirs one after the other are better."""
    union = range(a.start, b.stop)
    new, cost = fitting.fitted(union, asked.rank, asked.steps, asked.rate)
    if a in file.patches and b in file.patches:
        composed = fitting.loss(union, chained(file.patches[a], file.patches[b]))
        if cost["patched"] is None or composed <= cost["patched"]:
            new = None
            how = f"{layers(a)}'s and {layers(b)}'s one after the other are better: {composed:.3f}"
            cost |= {"patched": None, "composed": round(composed, 4), "how": how}
    file.keep(union, new, cost)


def main(words: Sequence[str]) -> int:
    asked = options(parser(), words, LIMITS)
    asked.is_written = False
    try:
        fit_all(asked)
    except (Unservable, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"stopped: {asked.out} {'has what was fitted so far' if asked.is_written else 'was not written'}",
            file=sys.stderr,
        )
        return 130
    return 0
