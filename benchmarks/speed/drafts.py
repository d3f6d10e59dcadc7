"""python -m benchmarks.speed.drafts [--delay-ms 20] [--drafts text MODEL ...] [--tokens 64]:
guesses behind a token, over slow links.

An end user and five workers over hosts of their own (testbed/own_hosts.py: root, Linux, sshd), every link so
many milliseconds late; with --ranks N on this machine instead, links as they are. Tokens/s with drafts over
without, in one session, for texts that repeat themselves and for chat; how many guesses were right; whether
the texts are the same. The last line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import ROOT, shapes
from benchmarks.arguments import parser, require_hosts
from benchmarks.chain import command, options, over_hosts, prompts_words, tokens_a_round
from benchmarks.faults.live_run import WORKERS
from jarvis_mpi.record.reader import load
from jarvis_mpi.testbed import own_hosts, own_links, own_processes

FACTS = (
    "The radio tower in the valley was built in 1931. It carries the voices of the farmers, the letters of "
    "the school and the warnings of the weather station. When the river rises, the weather station warns "
    "the farmers and the school. When the snow falls, the school warns the farmers. "
    "The farmers of the valley pay for the tower, and the school keeps it in order."
)
CODE = (
    "def area_of_circle(radius):\n"
    "    return 3.14 * radius * radius\n\ndef area_of_square(side):\n    return side * side\n\n"
    "def area_of_rectangle(width, height):\n"
    "    return width * height\n\ndef volume_of_cube(side):\n    return side * side * side"
)
ITEMS = (
    "copper wire, garden chairs, winter coats, a radio, two letters from the school, river stones, "
    "a glass mirror, engine oil"
)
PROMPTS = {
    "repeating": [
        f"Repeat this text word for word: {FACTS}",
        f"Summarize this text in its own words: {FACTS}",
        f"Write this code again:\n{CODE}",
        f"Write these things as a list, one a line: {ITEMS}",
    ],
    "chat": [
        "Why is the sky blue?",
        "What should I pack for a week in the mountains?",
        "Explain to a child how a radio works.",
        "Tell me a short story about a lighthouse keeper.",
    ],
}


def run(prompts: list[str], draft: str, asked: argparse.Namespace, scratch: Path) -> dict:
    file, log = scratch / "prompts.jsonl", scratch / "run.h5"
    log.unlink(missing_ok=True)
    file.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in prompts))
    words = prompts_words(asked, shapes.locate(asked.model), file, 1)
    words += ["--pace-s", str(asked.pace_s)]
    words += ["--draft", draft, "--draft-tokens", str(asked.draft_tokens)] if draft else []
    if asked.ranks:
        line = command(asked.ranks, log, *words)
    else:
        line = [*over_hosts(asked.limit_s), sys.executable, "-m", "jarvis_mpi", *words, "--log", str(log)]
    done = subprocess.run(line, capture_output=True, timeout=asked.limit_s + 60, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr.decode()
    record = load(log)
    tokens = record.tokens
    later = tokens[record.follows]
    rounds = later[later["hops"] > 0]
    return {
        "tokens_s": len(later) / float(later["total_s"].sum()),
        "round_s": float(rounds["total_s"].mean()),
        "tokens_a_round": tokens_a_round(record),
        "texts": [question.tokens for question in record.questions],
    }


def main() -> int:
    made = parser(__doc__)
    made.add_argument("--delay-ms", type=float, default=20)
    made.add_argument("--ranks", type=int, default=0)
    made.add_argument("--drafts", nargs="+", default=["text"])
    made.add_argument("--draft-tokens", type=int, default=8)
    made.add_argument("--kinds", nargs="+", default=list(PROMPTS))
    options(made, shapes.SMOLLM2, tokens=64)
    made.add_argument("--pace-s", type=float, default=0.0)
    made.add_argument("--limit-s", type=int, default=500)
    asked = made.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if not asked.ranks:
        require_hosts()
    results = {}
    print(
        "| texts | drafts | tokens/s | over none | tokens a round | round | text |\n"
        "|---|---|---|---|---|---|---|"
    )
    try:
        with tempfile.TemporaryDirectory() as scratch:
            if not asked.ranks:
                own_hosts.up(WORKERS, Path(scratch))
                for host in own_processes.every_host():
                    own_links.air(host, asked.delay_ms, 0)
            for kind in asked.kinds:
                plain = None
                for draft in ["", *asked.drafts]:
                    one = results[f"{kind}, {draft or 'none'}"] = run(
                        PROMPTS[kind], draft, asked, Path(scratch)
                    )
                    plain = plain or one
                    same = "same" if one["texts"] == plain["texts"] else "differs"
                    print(
                        f"| {kind} | {draft or 'none'} | {one['tokens_s']:.2f} | "
                        f"{one['tokens_s'] / plain['tokens_s']:.2f} |"
                        f" {one['tokens_a_round']:.2f} | {1e3 * one['round_s']:.0f} ms | {same} |",
                        flush=True,
                    )  # fmt: skip
    finally:
        if not asked.ranks:
            own_hosts.down()
    print(json.dumps({name: {k: v for k, v in one.items() if k != "texts"} for name, one in results.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
