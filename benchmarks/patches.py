"""What patches win back: python benchmarks/patches.py PATCHES --model M --text HELD_OUT --fit-text F [--tasks ...] [--out FILE.json]

On text that the fit has not seen, nats a token lost over the whole model (float32), as a run would go on, block by block, every
route being cluster.Cluster's own:

1. each block of the split and every two neighbours lost: skipped, the neighbour's block run once more, a gain and a shift a channel,
   its patch;
2. none to four of the nodes dead at once (all choices of one, ten drawn of two to four): one copy each, then patch or skip; no copies,
   patch or skip; and the grades (study/grading.py) of the answers to three prompts in a part of them;
3. with --tasks, right answers with each block skipped and patched.

analysis/patches.py draws FILE.json.
"""

import argparse
import itertools
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from skipped_texts import PROMPTS

from jarvis_mpi.common.layers import END_USER, Block, is_whole, layers
from jarvis_mpi.model import checkpoint, patch
from jarvis_mpi.model.activations import from_bytes
from jarvis_mpi.model.family import dtype_of, load_config, quiet
from jarvis_mpi.model.tokenizer import Text
from jarvis_mpi.protocol import placement
from jarvis_mpi.protocol.cluster import Cluster, Hop, Policy
from jarvis_mpi.protocol.node_state import State
from jarvis_mpi.study import grading, patch_fitting, tasks
from jarvis_mpi.study.corpus import windows_of
from jarvis_mpi.study.scorer import Scorer, encoded, nats

WINDOW = 256
DRAWN = 10  # of each number of dead nodes
DEAD_WINDOWS = 3  # of the text, for these
ANSWER = 32  # tokens
HOW = ("skip", "repeat", "gain", "patch")
At = TypeVar("At")  # activations, however they are kept


class Chain:
    """A whole model whose nodes can be dead."""

    def __init__(self, scorer: Scorer, asked: argparse.Namespace, told: patch.PatchInfo):
        self.scorer = scorer
        self.placement = placement.place(
            scorer.depth, asked.workers, split=asked.split, end_user_layers=asked.end_user_layers
        )
        self.owned = [
            block for node in sorted(self.placement) if node != END_USER for block in self.placement[node]
        ]
        self.told = told
        self.puts: dict[str, Callable[[Block, bytes, int], bytes]] = {}

    def hops(self, dead: Sequence[int], how: str, copies: int = 0) -> tuple[Hop, ...]:
        """`how`: of HOW; every block is taken to have a gain."""
        known = self.told.patched if how == "patch" else frozenset(self.owned)
        cluster = Cluster(
            self.placement, placement.copies(self.placement, copies),
            Policy(("copy", "skip") if how == "skip" else ("copy", "patch", "skip")),
            patches=known, patchers=frozenset(self.placement), states=dict.fromkeys(dead, State.GONE),
        )  # fmt: skip
        return cluster.route()

    def through(
        self, hops: Sequence[Hop], how: str, before: Sequence[At],
        run: Callable[[int, At], At], put: Callable[[Block, At], At],
    ) -> At:  # fmt: skip
        """`before`: what comes before each layer of the whole model, and after the last one: what is known is not run again."""
        there = {layer for hop in hops if not hop.patch for layer in hop.block}
        first = next((layer for layer in range(self.scorer.depth) if layer not in there), self.scorer.depth)
        state, earlier = before[first], range(0)
        for hop in hops:
            if hop.patch and how == "repeat":
                for layer in earlier:
                    state = run(layer, state)
            elif hop.patch:
                state = put(hop.block, state)
            else:
                for layer in hop.block:
                    state = run(layer, state) if layer >= first else state
                earlier = hop.block
        return state


def gains(
    path: Path, fit_text: Path, text: Text, chain: Chain, folder: Path, dtype: torch.dtype
) -> patch.Patches:
    """A gain and a shift a channel of every block, from a third of the text that a fit uses."""
    ids = torch.tensor(windows_of(fit_text.read_text(), text, 32 * (WINDOW - 1), WINDOW, print)[:-1])
    sums = patch_fitting.Sums()
    for window in ids.tolist():
        before = [from_bytes(body, chain.scorer.head.width, dtype) for body in chain.scorer.states_of(window)]
        at = {end: before[end] for block in chain.owned for end in (block.start, block.stop)}
        ends = [(block.start, block.stop) for block in chain.owned]
        sums.add(at, [*ends, *((end, end) for end in at)])
    made = {block: patch_fitting.gain(sums, block.start, block.stop) for block in chain.owned}
    said = {block: {"skipped": 0.0, "patched": 0.0, "how": "gain"} for block in made}
    patch.write(path, made, patch.PatchInfo(checkpoint.fingerprint(folder), "gains", said))
    return patch.Patches(path, dtype)


class Losses:
    """Nats a token over the whole model, of a text."""

    def __init__(self, chain: Chain, windows: Sequence[Sequence[int]]):
        self.chain, self.windows = chain, windows
        self.before = [chain.scorer.states_of(window) for window in windows]
        self.tokens = sum(len(window) - 1 for window in windows)
        self.known: dict[tuple, float] = {}
        self.whole = self.nats((), "skip")

    def nats(self, hops: Sequence[Hop], how: str) -> float:
        scorer = self.chain.scorer
        total = 0.0
        for window, before in zip(self.windows, self.before, strict=True):
            body = before[-1]
            if hops:
                body = self.chain.through(
                    hops, how, before, scorer.run, lambda hole, x: self.chain.puts[how](hole, x, 0)
                )
            total += nats(scorer.head, body, window)
        return total / self.tokens

    def of(self, dead: Sequence[int], how: str, copies: int = 0) -> float:
        hops = self.chain.hops(dead, how, copies)
        key = (tuple((hop.block, hop.patch) for hop in hops), how)
        if key not in self.known:
            self.known[key] = self.nats(hops, how) - self.whole
        return self.known[key]


def each_block(chain: Chain, losses: Losses) -> list[dict]:
    rows = []
    owners = [node for node in chain.placement if node != END_USER and chain.placement[node]]
    pairs = [
        [a, b] for a, b in itertools.pairwise(owners) if is_whole((*chain.placement[a], *chain.placement[b]))
    ]
    for dead in [*([node] for node in owners), *pairs]:
        hole = range(chain.placement[dead[0]][0].start, chain.placement[dead[-1]][-1].stop)
        row = {"hole": layers(hole), "blocks": len(dead)} | {
            how: losses.of(dead, how) for how in (HOW if len(dead) == 1 else ("skip", "patch"))
        }
        rows.append(row)
        print(
            " ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()),
            flush=True,
        )
    return rows


def deaths(chain: Chain, most: int) -> list[list[tuple[int, ...]]]:
    nodes = [node for node in chain.placement if node != END_USER and chain.placement[node]]
    dice = random.Random(7)
    all_of = [list(itertools.combinations(nodes, count)) for count in range(most + 1)]
    return [choices if count < 2 else dice.sample(choices, DRAWN) for count, choices in enumerate(all_of)]


def by_number(chain: Chain, losses: Losses) -> list[dict]:
    rows = []
    for count, choices in enumerate(deaths(chain, 4)):
        for dead in choices:
            row = {"dead": count, "nodes": list(dead)} | {
                f"{'copy, ' * copies}{how}": losses.of(dead, how, copies)
                for copies in (0, 1)
                for how in ("patch", "skip")
            }
            rows.append(row)
        told = {
            name: statistics.mean(row[name] for row in rows if row["dead"] == count)
            for name in row
            if name not in ("dead", "nodes")
        }
        print(count, {name: round(value, 3) for name, value in told.items()}, flush=True)
    return rows


def graded(chain: Chain, text: Text, prose_nats: float, prompts: Sequence[str], choices: int) -> list[dict]:
    rows = []

    def said_by(ids: list[int], hops: Sequence[Hop], how: str) -> tuple[list[int], float]:
        def through(body: bytes, start: int) -> bytes:
            for hop in hops:
                if hop.patch:
                    body = chain.puts[how](hop.block, body, start)
                else:
                    for layer in hop.block:
                        body = chain.scorer.layers[layer].run(body, start)
            return body

        said, cost = chain.scorer.answer(ids, through, ANSWER, text.end_ids)
        return said, float("nan") if cost is None else cost

    def answered(ids: list[int], hops: Sequence[Hop], how: str, whole: Sequence[int]) -> grading.Answer:
        said, cost = said_by(ids, hops, how)
        return grading.Answer(
            text.tokenizer.decode(said),
            len(said),
            cost,
            grading.repetition(said),
            grading.agreeing(said, whole or said),
        )

    for prompt in prompts:
        ids = text.ids_of(prompt)
        said, _ = said_by(ids, chain.hops((), "skip"), "skip")
        whole = answered(ids, chain.hops((), "skip"), "skip", said)
        known: dict[tuple, grading.Answer] = {}
        for count, dead in (
            (count, dead) for count, of in enumerate(deaths(chain, 4)) if count for dead in of[:choices]
        ):
            for copies, how in itertools.product((0, 1), ("patch", "skip")):
                hops = chain.hops(dead, how, copies)
                key = (tuple((hop.block, hop.patch) for hop in hops), how)
                if key not in known:
                    known[key] = answered(ids, hops, how, said)
                its = known[key]
                rows.append(
                    {"prompt": prompt, "dead": count, "nodes": list(dead), "how": f"{'copy, ' * copies}{how}",
                     "grade": str(grading.grade(its, whole, prose_nats)), "text": its.text}
                )  # fmt: skip
        print(f"graded: {prompt}", flush=True)
    return rows


def on_tasks(chain: Chain, text: Text, words: str, limit: int) -> list[dict]:
    scorer = chain.scorer
    owners = [node for node in chain.placement if node != END_USER and chain.placement[node]]
    right: Counter[tuple[str, str, str]] = Counter()
    count: Counter[str] = Counter()
    for question in tasks.questions(words, 0, None, limit):
        its = encoded(text, question)
        count[question.task] += 1
        shared = its.shared
        tails = [ids[shared:-1] for ids in its.ids]
        state = [scorer.head.embed(its.ids[0][:shared], 0)]
        state += [scorer.head.embed(tail, shared) if tail else b"" for tail in tails]
        before = [state]
        for layer in range(scorer.depth):
            before.append(scorer.run_choices(layer, before[-1]))

        def put(hole: Block, bodies: list[bytes], shared: int = shared) -> list[bytes]:
            first, *rest = bodies
            patched = chain.puts["patch"]
            return [patched(hole, first, 0), *(patched(hole, body, shared) if body else b"" for body in rest)]

        for hole, how in [("none", "skip"), *itertools.product(owners, ("skip", "patch"))]:
            hops = chain.hops([] if hole == "none" else [hole], how)
            first, *rest = chain.through(hops, how, before, scorer.run_choices, put)
            told = scorer.of_choices(its, first, rest)
            name = hole if hole == "none" else layers(chain.placement[hole][0])
            right[question.task, name, how] += min(range(len(told)), key=told.__getitem__) == question.answer
    rows = [
        {"task": task, "hole": hole, "how": how, "share": of / count[task]}
        for (task, hole, how), of in right.items()
    ]
    for task in count:
        shares = {
            how: [
                row["share"]
                for row in rows
                if row["task"] == task and row["how"] == how and row["hole"] != "none"
            ]
            for how in ("skip", "patch")
        }
        whole = next(row["share"] for row in rows if row["task"] == task and row["hole"] == "none")
        print(
            f"{task}: whole {whole:.0%}, mean over blocks: {', '.join(f'{how} {statistics.mean(of):.0%}' for how, of in shares.items())}",
            flush=True,
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("patches", type=Path)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--fit-text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=2550)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--split", default="even")
    parser.add_argument("--end-user-layers", default="first,last")
    parser.add_argument("--tasks", default="")
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument(
        "--graded", type=int, default=4, help="choices of dead nodes of each number whose answers are graded"
    )
    parser.add_argument(
        "--parts",
        default="blocks,dead,grades,tasks",
        help="some of them; the others stay as they are in --out",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/patches.json"))
    asked = parser.parse_args()
    quiet()
    begun = time.monotonic()
    folder = checkpoint.locate(asked.model, print)
    config = load_config(folder)
    dtype, text, told = dtype_of(config, "float32"), Text(folder), patch.read(asked.patches)
    raw = asked.text.read_text()
    windows = windows_of(raw[len(raw) // 3 :], text, asked.tokens, WINDOW, print)
    chain = Chain(Scorer(folder, dtype), asked, told)
    chain.puts["patch"] = patch.Patches(asked.patches, dtype)
    chain.puts["gain"] = gains(
        asked.patches.with_suffix(".gains"), asked.fit_text, text, chain, folder, dtype
    )
    found = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    found |= {"model": asked.model, "split": [layers(block) for block in chain.owned]}

    def blocks_lost() -> list[dict]:
        losses = Losses(chain, windows)
        found.update(tokens=losses.tokens, whole=losses.whole)
        print(
            f"{asked.model}: {losses.whole:.3f} nats a token, {losses.tokens} tokens\nhole blocks {' '.join(HOW)}"
        )
        rows = each_block(chain, losses)
        print(summary(rows))
        return rows

    parts = {
        "blocks": blocks_lost,
        "dead": lambda: by_number(chain, Losses(chain, windows[:DEAD_WINDOWS])),
        "grades": lambda: graded(chain, text, found["whole"], PROMPTS, asked.graded),
        "tasks": lambda: on_tasks(chain, text, asked.tasks, asked.limit) if asked.tasks else [],
    }
    if "whole" not in found and "blocks" not in asked.parts.split(","):
        parser.error(
            f"{asked.out} has no blocks yet, and the grades need what the whole model says: add blocks to --parts"
        )
    for part in asked.parts.split(","):
        found[part] = parts[part]()
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(found, indent=1))
    print(f"{time.monotonic() - begun:.0f} s")
    return 0


def summary(rows: list[dict]) -> str:
    lines = []
    for count in (1, 2):
        of = [row for row in rows if row["blocks"] == count]
        for how in HOW[1:] if count == 1 else ("patch",):
            won = [1 - row[how] / row["skip"] for row in of]
            together = 1 - sum(row[how] for row in of) / sum(row["skip"] for row in of)
            worse = [row["hole"] for row in of if row[how] > row["skip"]]
            lines.append(
                f"{count} lost, {how}: won back {together:.0%} of the sum, {statistics.median(won):.0%} in the median, worse than skipping: {', '.join(worse) or 'none'}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
