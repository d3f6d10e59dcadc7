"""What patches win back: python -m benchmarks.quality.patches PATCHES --model M --text HELD_OUT --fit-text F
[--tasks ...] [--out FILE.json]

On text that the fit has not seen, nats a token lost over the whole model (float32), as a run would go on,
block by block, every route being cluster.Cluster's own:

1. each block of the split and every two neighbours lost: skipped, the neighbour's block run once more, a gain
   and a shift a channel, its patch;
2. none to four of the nodes dead at once (all choices of one, ten drawn of two to four): one copy each, then
   patch or skip; no copies, patch or skip; and the grades (study/grading.py) of the answers to three prompts
   in a part of them;
3. with --tasks, right answers with each block skipped and patched.

analysis/patches.py draws FILE.json.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from pathlib import Path

from benchmarks.arguments import parser
from benchmarks.quality.patched_answers import graded, on_tasks
from benchmarks.quality.patched_chain import HOW, WINDOW, Chain, Losses, deaths, gains
from benchmarks.quality.skipped_texts import PROMPTS
from jarvis_mpi.common.layers import END_USER, is_whole, layers
from jarvis_mpi.model import checkpoint, patch
from jarvis_mpi.model.family import dtype_of, load_config, quiet
from jarvis_mpi.model.tokenizer import Text
from jarvis_mpi.study.corpus import windows_of
from jarvis_mpi.study.scorer import Scorer

DEAD_WINDOWS = 3  # of the text, where nodes are dead at once


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


def options() -> argparse.ArgumentParser:
    made = parser(__doc__)
    made.add_argument("patches", type=Path)
    made.add_argument("--model", default="smollm2-135m-instruct")
    made.add_argument("--text", type=Path, required=True)
    made.add_argument("--fit-text", type=Path, required=True)
    made.add_argument("--tokens", type=int, default=2550)
    made.add_argument("--workers", type=int, default=8)
    made.add_argument("--split", default="even")
    made.add_argument("--end-user-layers", default="first,last")
    made.add_argument("--tasks", default="")
    made.add_argument("--limit", type=int, default=40)
    made.add_argument(
        "--graded", type=int, default=4, help="choices of dead nodes of each number whose answers are graded"
    )
    made.add_argument(
        "--parts",
        default="blocks,dead,grades,tasks",
        help="some of them; the others stay as they are in --out",
    )
    made.add_argument("--out", type=Path, default=Path("runs/patches.json"))
    return made


def opened(asked: argparse.Namespace) -> tuple[Chain, Text, list[list[int]]]:
    """-> the model with its patches, its text's words, the windows of the text."""
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
    return chain, text, windows


def main() -> int:
    asked = (made := options()).parse_args()
    quiet()
    begun = time.monotonic()
    chain, text, windows = opened(asked)
    found = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    found |= {"model": asked.model, "split": [layers(block) for block in chain.owned]}

    def blocks_lost() -> list[dict]:
        losses = Losses(chain, windows)
        found.update(tokens=losses.tokens, whole=losses.whole)
        print(
            f"{asked.model}: {losses.whole:.3f} nats a token, {losses.tokens} tokens\n"
            f"hole blocks {' '.join(HOW)}"
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
        made.error(
            f"{asked.out} has no blocks yet, and the grades need what the whole model says: add blocks to "
            "--parts"
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
                f"{count} lost, {how}: won back {together:.0%} of the sum, {statistics.median(won):.0%} in "
                f"the median, worse than skipping: {', '.join(worse) or 'none'}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
