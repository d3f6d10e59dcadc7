"""Prints what a record holds, and how far its run came.

    python analysis/load.py RUN.h5 [more.h5] a summary, and the text
    python analysis/load.py --mend RUN.h5    makes one that kill -9 cut off a file for any HDF5 program
    python analysis/load.py --done RUN.h5    prints nothing; the status is 0 if all is answered

In Python: `from jarvis_mpi.record.reader import load`, then run.tokens, run.hops, run.questions, run.faults;
see docs/records.md. It needs h5py and numpy, but neither MPI nor torch.
"""

import argparse
from pathlib import Path

import script

from jarvis_mpi.record.reader import load
from jarvis_mpi.record.repair import mend
from jarvis_mpi.record.run import Run


def summary(run: Run) -> str:
    lines = [
        f"{run.path}: schema {run.schema}, {Path(run.model).name}, {len(run.hosts)} nodes, {run.started}"
    ]
    answered = sum(question.answered for question in run.questions)
    state = {"done": "done", "ended": "ended too early", "": "under way, or killed"}[run.ended]
    lines += [
        f"{len(run.tokens)} tokens in {run.length_s:.1f} s, {answered} of {len(run.questions)} answered; "
        f"{state}"
    ]
    lines += [
        f"{event.at_s:9.3f} s  {event.text}"
        for event in run.events
        if event.event in ("rerouted", "orphaned")
    ]
    lines += [f"> {question.prompt}\n{question.text}" for question in run.questions]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("records", nargs="+", type=Path, metavar="RUN.h5")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--mend", action="store_true")
    what.add_argument("--done", action="store_true")
    words = parser.parse_args()
    runs = script.each(words.records, mend if words.mend else load)
    if words.done:
        return int(any(run.ended != "done" for run in runs))
    print("\n\n".join(map(summary, runs)))
    return 0


if __name__ == "__main__":
    script.run(main)
