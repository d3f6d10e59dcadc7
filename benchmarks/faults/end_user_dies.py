"""Kills, stops or cuts off the end user at four moments of a run, and in every second round a worker with it.

    python -m benchmarks.faults.end_user_dies --runs 40 [--seed 1]
    python -m benchmarks.faults.end_user_dies --hosts --runs 100 [--kinds "power off"] [--streams 4]

On this machine, or over six hosts of one's own (testbed/own_hosts.py: root, Linux, sshd). The standby is to
go on: the same text in its record, marked done, no token lost or twice, all ranks gone, and nothing left
behind. Whoever reads what mpirun writes sees the same text, or lacks a token at the seam; where the end
user's machine is gone, the text up to then.
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.arguments import parser, require_hosts
from benchmarks.faults.end_user_places import Hosts, Machine
from benchmarks.faults.launcher_dies import TOKENS, OrphanedRun
from benchmarks.faults.live_run import WORKERS, kill
from benchmarks.faults.successors import Written, lost_at_most, records, standby_of, tokens_in, written
from jarvis_mpi.testbed import own_hosts

MOMENTS = ("prefill", "decoding", "between turns", "end")
LATER_S = 1.0
# It has heard of the new end user; or only that all the others are gone, that one among them.
STOPS = (b"is the end user now", b"and may have gone on")
SENTENCE = "Tell me, in order, what happens to a raindrop from the cloud to the sea, and name every river. "
SENTENCE_TOKENS, TEMPLATE_TOKENS = 22, 30
QUESTIONS = (
    "Why is the sky blue?",
    "Write about the sea and its weather.",
    "How does bread rise?",
    "Name the planets, and say a word about each.",
)


@dataclass
class Result:
    """One run, judged. Times are from the fault on; 0.0: there is none."""

    moment: str
    fault: str
    worker: int  # that was killed, too; 0: none
    next_s: float = 0.0  # until the first token that the standby made
    late: bool = False  # that took longer than it may
    gone_s: float = 0.0  # from the end of the text until no rank is left
    by: str = ""  # the record that has the whole text
    terminal: bool = False  # what mpirun wrote is the whole text
    status: int | None = None
    load: float = 0.0  # how many processes wanted a core, in the last minute
    said: str = ""  # the last line that mpirun wrote on standard error
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        after = f"next token after {self.next_s:.2f} s" if self.next_s else "no token after"
        late = " (late)" if self.late else ""
        terminal = "whole" if self.terminal else "not whole"
        return (
            f"{self.moment}, {self.fault}, worker {self.worker or 'none'} | {after}{late}, ranks gone "
            f"{self.gone_s:.1f} s after the text's end, by {self.by}, terminal {terminal}, "
            f"status {self.status}, load {self.load:.0f}, {self.said!r} | {'; '.join(self.wrong) or 'whole'}"
        )


class Campaign:
    """Runs at one place. `asked`: the command line."""

    def __init__(self, place: Machine | Hosts, scratch: Path, asked: argparse.Namespace):
        self.place, self.scratch, self.dice = place, scratch, random.Random(asked.seed)
        self.streams, self.cold = asked.streams, asked.cold
        self.prompt = SENTENCE * max(1, round((asked.context - TEMPLATE_TOKENS) / SENTENCE_TOKENS))
        self.tokens = asked.tokens
        self.more: tuple[str, ...] = ("--standby", "1", "--give-up-s", f"{asked.give_up_s:g}")
        if self.streams:
            file = scratch / "prompts.txt"
            file.write_text("".join(f"{question}\n" for question in QUESTIONS))
            self.more += ("--prompts", str(file), "--streams", str(self.streams))

    @property
    def moments(self) -> tuple[str, ...]:
        return tuple(moment for moment in MOMENTS if not self.streams or moment != "between turns")

    def begun(self, name: str, moment: str) -> OrphanedRun:
        self.place.ready()
        log, is_chat = self.scratch / f"{name}.h5", moment == "between turns"
        place, words = self.place, (self.more, self.prompt, self.tokens)
        return OrphanedRun(place.folder, log, is_chat, place.launcher, *words)

    def measure(self) -> None:
        """Have it answered without a fault, twice: the first run fills the caches."""
        for name in "cold", "whole":
            run = self.begun(name, "decoding")
            self.whole_shown = run.process.stdout.read().decode()
            run.wait()
            assert run.process.returncode == 0, run.errors.decode()
            self.whole = written(run.log)

    def reach(self, run: OrphanedRun, moment: str) -> bytes:
        """Wait for a moment. -> what was read meanwhile."""
        if moment == "decoding" and self.streams:  # answers are shown when they have ended
            count = self.dice.randint(4, 100)
            run.wait_for(lambda: tokens_in(run.log) >= count, "no tokens")
            return b""
        return run.reach(moment, self.dice)

    def one(self, number: int, moment: str, fault: str, kills_worker: bool) -> Result:
        run, dice = self.begun(str(number), moment), self.dice
        result = Result(moment, fault, 0)
        try:
            shown = self.reach(run, moment)
            standby, pids = standby_of(run.log), run.pids()
        except (AssertionError, OSError) as error:
            kill(run.processes())
            result.wrong.append(f"it did not come so far: {error}")
            print(run.errors.decode(), flush=True)
            return result
        # The only copy of worker 1's layers was the end user's.
        worker = dice.choice([node for node in range(2, WORKERS + 1) if node != standby])
        struck_at = self.place.strike(run, fault)
        if self.cold:
            Path("/proc/sys/vm/drop_caches").write_text("3")
        if kills_worker:
            time.sleep(LATER_S * dice.random())
            kill([pids[worker]] if worker in pids else [])
            result.worker = worker
        self.place.mend(fault, struck_at)
        more, result.wrong, result.gone_s = self.place.left(run, fault)
        with contextlib.suppress(Exception):
            result.status = run.process.wait(timeout=10)
        result.load = os.getloadavg()[0]
        result.said = (run.errors.decode().strip().splitlines() or [""])[-1].strip()
        self.judge(run, result, (shown + more).decode(), struck_at)
        if result.wrong:
            print(run.errors.decode(), flush=True)
        return result

    def judge(self, run: OrphanedRun, result: Result, shown: str, struck_at: float) -> None:
        """Say what is wrong, and what was measured."""
        found = {path.stem: written(path) for path in records(run.log)}
        whole = [stem for stem, each in found.items() if self.is_whole(each)]
        result.by = " and ".join(sorted(whole))
        made = [each.next_at - struck_at for each in found.values() if each.next_at]
        result.next_s = min(made, default=0.0)
        result.terminal = shown.strip() == self.whole_shown.strip()
        longest_s = self.place.longest_s[self.place.faults.index(result.fault)]
        if not whole:
            result.wrong.append("no record has the whole text")
            print(*(f"{stem}: {each}" for stem, each in found.items()), sep="\n")
        result.late = bool(longest_s) and result.next_s > longest_s
        # One that has to give up says so of every answer that is under way.
        text = "\n".join(line for line in shown.splitlines() if STOPS[1].decode() not in line)
        if not lost_at_most(text.strip(), self.whole_shown.strip()):
            result.wrong.append(f"shown: {shown!r}")
        if b"Traceback" in run.errors:
            result.wrong.append("a traceback")
        has_successor = any(stem != run.log.stem for stem in found)
        stops = sum(run.errors.count(words) for words in STOPS)
        if result.fault == "link cut for 5 s" and has_successor and stops != 1:
            result.wrong.append(f"the old end user said {stops} times why it stops")

    def is_whole(self, found: Written) -> bool:
        same = list(found.tokens.values()) == list(self.whole.tokens.values())
        return found.is_done and found.is_contiguous and same and found.texts == self.whole.texts


def table(results: list[Result]) -> None:
    """Print how many were whole, and their times, of each fault at each moment, and of each fault."""
    print("| fault | moment | whole | next token | in time | with a worker | in time | gone |")
    for fault in dict.fromkeys(each.fault for each in results):
        for moment in (*MOMENTS, ""):
            mine = [each for each in results if each.fault == fault and moment in ("", each.moment)]
            alone, both = ([each for each in mine if bool(each.worker) == also] for also in (False, True))
            whole, gone = sum(not each.wrong for each in mine), spread([each.gone_s for each in mine])
            if mine:
                times = f"{next_tokens(alone)} | {next_tokens(both)}"
                print(f"| {fault} | {moment or 'all'} | {whole} of {len(mine)} | {times} | {gone} |")


def next_tokens(results: list[Result]) -> str:
    came = [each for each in results if each.next_s]
    return f"{spread([each.next_s for each in came])} | {sum(not each.late for each in came)} of {len(came)}"


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} s ({max(values):.2f})" if values else "-"


def planned(asked: argparse.Namespace, campaign: Campaign) -> Iterator[tuple[int, str, str, bool]]:
    """Yield each run's number, moment and fault, and whether a worker is killed, too."""
    moments, faults = asked.moments or campaign.moments, asked.kinds or campaign.place.faults
    for number in range(asked.first, asked.first + asked.runs):
        round_ = number // len(moments)
        kills_worker = round_ // len(faults) % 2 == 1 and not asked.alone
        yield number, moments[number % len(moments)], faults[round_ % len(faults)], kills_worker


def main() -> int:
    made = parser(__doc__)
    made.add_argument("--runs", type=int, default=40)
    made.add_argument("--first", type=int, default=0, help="number of the first run")
    made.add_argument("--seed", type=int, default=int(time.time()))
    made.add_argument("--hosts", action="store_true", help="over hosts of one's own")
    made.add_argument("--kinds", nargs="+", help="of the faults, by their names")
    made.add_argument("--moments", nargs="+", choices=MOMENTS)
    made.add_argument("--alone", action="store_true", help="kill no worker")
    made.add_argument("--streams", type=int, default=0, help="answer a file of four, so many at a time")
    made.add_argument("--tokens", type=int, default=TOKENS, help="of an answer")
    made.add_argument("--give-up-s", type=float, default=60.0, help="the runs' own option")
    made.add_argument("--context", type=int, default=200, help="about so many tokens has the prompt")
    made.add_argument("--cold", action="store_true", help="drop the page cache after the fault (root)")
    asked = made.parse_args()
    if asked.hosts:
        require_hosts()
    results = list[Result]()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        if asked.hosts:
            stack.callback(own_hosts.down)
        place = (Hosts if asked.hosts else Machine)(Path(folder))
        campaign = Campaign(place, Path(folder), asked)
        campaign.measure()
        print(f"seed {asked.seed}", flush=True)
        for number, *story in planned(asked, campaign):
            results.append(campaign.one(number, *story))
            print(f"{number + 1}: {results[-1]}", flush=True)
    table(results)
    print(json.dumps([asdict(each) for each in results]))
    return sum(bool(each.wrong) or (each.late and not each.worker and not asked.cold) for each in results)


if __name__ == "__main__":
    sys.exit(main())
