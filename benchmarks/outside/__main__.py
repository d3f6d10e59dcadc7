"""Faults from outside, several a run, at moments of the protocol, each run judged by an auditor.

    python -m benchmarks.outside --faults 1000 [--seed 1]
    python -m benchmarks.outside --replay 1:37

Real mpirun, real weights (SmolLM2, float32), 3 to 8 ranks on this machine. The rules are in auditor.py. What
a run that broke one has left (output, errors, records) is kept under --keep, with the command that makes it
again. The last line is JSON; status 1 if a rule was broken.
"""

import json
import shlex
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.arguments import parser
from benchmarks.outside.auditor import Audit
from benchmarks.outside.cases import QUESTIONS, Drawn, draw
from benchmarks.outside.evidence import Seen
from benchmarks.outside.facts import Case
from benchmarks.outside.live import Live
from benchmarks.outside.report import Judged, summary, table


class Texts:
    """What is answered without a fault: one run for each kind of text."""

    def __init__(self, folder: Path):
        self.folder, self.known = folder, dict[tuple[str, int, bool], Seen]()

    def of(self, drawn: Drawn) -> Seen:
        if drawn.text not in self.known:
            plain = Drawn(0, 4, False, 1, *drawn.text, draft=False, pace=False)
            seen = Live(plain, self.folder / f"plain{len(self.known)}", 1 << 30).go()
            if seen.status or seen.left or seen.records[0].end != "done":
                sys.exit(f"a run without a fault: status {seen.status}, {seen.left}, {seen.stderr}")
            self.known[drawn.text] = seen
        return self.known[drawn.text]


def one(drawn: Drawn, texts: Texts, folder: Path) -> Judged:
    """Run and judge."""
    whole = texts.of(drawn)
    expected = whole.records[0].answers()
    seen = Live(drawn, folder, sum(len(each.rows) for each in expected)).go()
    case = Case(drawn.ranks, drawn.standby, drawn.copies, drawn.way, expected, whole.stdout)
    audit = Audit(case, seen)
    wrong, outcome = audit.wrong(), audit.outcome()
    struck = "; ".join(
        f"{strike.kind} {strike.target} {strike.node} @ {strike.moment} {strike.at_s:.2f} s"
        for strike in seen.strikes
    )
    ended = f"{seen.took_s:.1f} s, status {seen.status}, {outcome}"
    print(f"{drawn.number}: {drawn} | {struck or 'nothing'} | {ended}")
    for line in (*(f"  WRONG {each}" for each in wrong), *(f"  {each}" for each in audit.notes())):
        print(line)
    sys.stdout.flush()
    return Judged(drawn.number, seen, outcome, wrong)


def keep(judged: Judged, drawn: Drawn, folder: Path, kept: Path, replay: str) -> None:
    """Keep what a run has left."""
    place = kept / replay.replace(":", "-")
    shutil.copytree(folder, place, dirs_exist_ok=True)
    (place / "stdout").write_bytes(judged.seen.stdout)
    (place / "stderr").write_text(judged.seen.stderr)
    told = [f"python -m benchmarks.outside --replay {replay}", str(drawn), *map(str, drawn.orders)]
    told += ["options: " + shlex.join(drawn.words()), f"status {judged.seen.status}"]
    told += [json.dumps(asdict(strike)) for strike in judged.seen.strikes]
    (place / "about.txt").write_text("\n".join([*told, *(f"WRONG {each}" for each in judged.wrong), ""]))


def main() -> int:
    made = parser(__doc__)
    made.add_argument("--faults", type=int, default=1000, help="that hit something")
    made.add_argument("--seed", type=int, default=int(time.time()))
    made.add_argument("--first", type=int, default=0, help="number of the first run")
    made.add_argument(
        "--until", type=float, default=0.0, help="seconds after which no run begins; 0: no limit"
    )
    made.add_argument("--replay", default="", metavar="SEED:RUN")
    made.add_argument("--keep", type=Path, default=Path("runs/outside"), help="folder of what broke a rule")
    asked = made.parse_args()
    seed, number = asked.seed, asked.first
    if asked.replay:
        seed, number = map(int, asked.replay.split(":"))
        for order in draw(seed, number).orders:
            print(order)
    print(f"seed {seed}, {len(QUESTIONS)} questions", flush=True)
    judged: list[Judged] = []
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="jo-") as scratch:
        texts = Texts(Path(scratch))
        while sum(len(each.seen.strikes) for each in judged) < asked.faults:
            if asked.until and time.monotonic() - begun > asked.until:
                break
            folder, drawn = Path(scratch) / str(number), draw(seed, number)
            judged.append(one(drawn, texts, folder))
            if judged[-1].wrong:
                keep(judged[-1], drawn, folder, asked.keep, f"{seed}:{number}")
            shutil.rmtree(folder)
            number += 1
            if asked.replay:
                break
    print("\n".join(table(judged)))
    print(json.dumps({"seed": seed, **summary(judged)}))
    return any(each.wrong for each in judged)


if __name__ == "__main__":
    sys.exit(main())
