"""python -m benchmarks.quality.same_texts [--count 200] [--dtype bfloat16] [--weights auto]:
drafts, answers in flight and a takeover change no text.

So many questions, made of the Python Language Reference's sentences, once one after the other on an end user
and a worker, and once on an end user and four workers with four answers in flight, `--draft text`, and a
worker that dies on the way. SmolLM2, greedy, on this machine. The last line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import shapes
from benchmarks.arguments import parser
from benchmarks.chain import command, options, prompts_words, tokens_a_round
from jarvis_mpi.record.reader import load
from jarvis_mpi.study.corpus import prose


def asked_of(count: int) -> list[str]:
    sentences = [sentence.strip() for sentence in prose().replace("\n", " ").split(". ")]
    wanted = [f"Say in your own words: {sentence}." for sentence in sentences if 40 < len(sentence) < 200]
    assert len(wanted) >= count, f"{len(wanted)} sentences, {count} asked for"
    return wanted[:count]


def said(ranks: int, streams: int, more: list[str], prompts: Path, asked: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "run.h5"
        words = prompts_words(asked, shapes.locate(asked.model), prompts, streams)
        done = subprocess.run(
            command(ranks, log, *words, *more, limit_s=1200), capture_output=True, check=True
        )
        record = load(log)
    told = [event.text for event in record.events if event.event == "rerouted"]
    return {
        "texts": [json.loads(line)["text"] for line in done.stdout.decode().splitlines()],
        "told": told,
        "tokens": len(record.tokens),
        "tokens_a_round": tokens_a_round(record),
    }


def main() -> int:
    made = parser(__doc__)
    made.add_argument("--count", type=int, default=200)
    options(made, shapes.SMOLLM2, tokens=16)
    made.set_defaults(dtype="bfloat16")
    asked = made.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as scratch:
        prompts = Path(scratch) / "prompts.jsonl"
        prompts.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in asked_of(asked.count)))
        plain = said(2, 1, [], prompts, asked)
        words = ["--draft", "text", "--fault", f"kill 2 @ {2 * asked.count}"]
        other = said(5, 4, words, prompts, asked)
    same = sum(a == b for a, b in zip(plain["texts"], other["texts"], strict=True))
    print(
        f"{same} of {asked.count} texts are the same ({asked.dtype}, --weights {asked.weights}; "
        f"{plain['tokens']} tokens; {other['tokens_a_round']:.2f} tokens a round with drafts; "
        f"{'; '.join(other['told']) or 'nothing was told'})"
    )
    print(json.dumps({"same": same, "count": asked.count, "told": other["told"]}))
    return int(same != asked.count)


if __name__ == "__main__":
    sys.exit(main())
