"""python -m benchmarks.faults.many_answers [--faults SIGKILL ...] [--words "--weights int8 --draft text"]:
faults amid many answers.

Eight prompts, four in flight, int8 weights and drafts: real mpirun, SmolLM2, an end user and five workers, a
signal from here at a drawn moment. With copies every answer must be that of a run with one answer in flight,
without drafts and faults; without copies every answer must be whole, and what was skipped told (that it is
what was run, tests/sim/rules.py demands). The last line is JSON.
"""

import json
import random
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.arguments import parser
from benchmarks.faults.live_run import PLACES, LiveRun, hit, left_over, says
from benchmarks.speed.drafts import PROMPTS
from jarvis_mpi.record.reader import load
from jarvis_mpi.record.run import Run as Record

TOKENS = 48
CELLS = [
    (fault, copies, place)
    for fault, copies in (("SIGKILL", 1), ("SIGKILL", 0), ("SIGSTOP for good", 1), ("SIGSTOP for 3 s", 1))
    for place in PLACES
]


def ended(run: LiveRun) -> tuple[list[str], Record]:
    """Once it has: its answers and its record."""
    out = run.process.stdout.read()
    run.wait()
    return [json.loads(line).get("text", "") for line in out.decode().splitlines()], load(run.log)


def judge(run: LiveRun, record: Record, said: list[str], whole: list[str], copies: int) -> list[str]:
    """What is wrong; [] if all is as it must be."""
    wrong = []
    if run.process.returncode or record.ended != "done":
        wrong.append(f"status {run.process.returncode}, ended: {record.events[-1].text}")
    if len(said) != len(whole) or any(len(question.tokens) != TOKENS for question in record.questions):
        wrong.append(f"tokens of the answers: {[len(question.tokens) for question in record.questions]}")
    if not any(event.event.isupper() for event in record.events):
        wrong.append("no sign of the fault")
    told = [event for event in record.events if event.event == "rerouted"]
    skipped = [event for event in told if says(event.text, "skipped")]
    if copies and (skipped or said != whole):
        differ = [place for place, pair in enumerate(zip(said, whole, strict=False)) if pair[0] != pair[1]]
        wrong.append(f"answers {differ} are others: {[event.text for event in skipped]}")
    if not copies and not skipped:
        wrong.append("nothing was skipped")
    return wrong


def main() -> int:
    made = parser(__doc__)
    made.add_argument("--faults", nargs="+", default=[""])
    made.add_argument("--words", default="--weights int8 --draft text --streams 4")
    made.add_argument("--reference", default="--weights int8 --streams 1")
    made.add_argument("--seed", type=int, default=int(time.time()))
    words = made.parse_args()
    dice, results = random.Random(words.seed), []
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "prompts.jsonl"
        file.write_text(
            "\n".join(json.dumps({"prompt": prompt}) for kind in PROMPTS.values() for prompt in kind)
        )

        def started(name: str, copies: int, more: str) -> LiveRun:
            return LiveRun(
                Path(scratch) / name, copies, TOKENS, tuple(shlex.split(more)), asked=("--prompts", str(file))
            )

        whole = started("whole.h5", 1, words.reference)
        reference, record = ended(whole)
        print(
            f"seed {words.seed}; no fault, {words.reference}: {float(record.tokens['at_s'][-1]):.1f} s",
            flush=True,
        )
        quiet = started("quiet.h5", 1, words.words)
        said, record = ended(quiet)
        lasts_s = float(record.tokens["at_s"][-1])
        print(
            f"no fault, {words.words}: {lasts_s:.1f} s, {'same' if said == reference else 'other'} answers",
            flush=True,
        )
        for number, (fault, copies, place) in enumerate(CELLS):
            if not any(each in fault for each in words.faults):
                continue
            run = started(f"{number}.h5", copies, words.words)
            assert run.is_ready.wait(150), run.errors.decode()
            node, after_s = PLACES[place], dice.random() * 0.7 * lasts_s
            pid = run.pids()[node]
            time.sleep(after_s)
            hit([pid], fault)
            said, record = ended(run)
            wrong = judge(run, record, said, reference, copies)
            if left := left_over():
                wrong.append(f"still running: {left}")
            gaps = record.tokens["total_s"][record.follows]
            result = {"fault": fault, "copies": copies, "place": place, "after_s": after_s, "wrong": wrong,
                      "gap_s": float(gaps.max()), "usual_s": float(statistics.median(gaps))}  # fmt: skip
            results.append(result)
            print(
                f"{fault}, copies {copies}, {place}, after {after_s:.1f} s: longest gap {gaps.max():.2f} s:"
                f" {'; '.join(wrong) or 'as expected'}",
                flush=True,
            )
            if wrong:
                print(run.errors.decode(), flush=True)
    print(json.dumps(results))
    return sum(bool(result["wrong"]) for result in results)


if __name__ == "__main__":
    sys.exit(main())
