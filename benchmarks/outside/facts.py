"""What follows from a run's faults and from what was seen of it, before anything is judged.

As auditor.py, it shares no code with the program or other benchmarks.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.outside.evidence import LAUNCHER, Answer, Record, Seen

LONG_STOP_S = 0.7  # a stop that others may take for silence: --silence-s is 1, and machines are busy
USUAL = re.compile(  # lines on standard error that tell of no end
    r"^starting, |ready in [\d.]+ s:|goes on if the end user dies|^the answer is cut after|^node +host "
    r"|^(\d+|end user) +\S+ .* +[\d.]+ +[\d.]+$|tokens: the first after|waits? as a spare|^\s*$"
    r"|^node \d+ (lost|silent|stalled|stuck|late|given up|garbled|back|missing)\b.* at step|stands? by for"
    r"|^node \d+ \(.*\): |, is gone: node \d+ goes on"
)
LAUNCHERS = re.compile(
    r"^-+$|prterun|mpirun(?! died)|PRTE|PMIx|PMIX|MPI_|^\[\S+:\d+\]|exited on signal|MPI process|^\* "
)


@dataclass(frozen=True)
class Case:
    """What was ordered. `way`: prompt, prompts or chat; `expected`: the answers without a fault."""

    ranks: int
    standby: bool
    copies: int
    way: str
    expected: Sequence[Answer]
    shown: bytes  # on standard output, without a fault


class Facts:
    """One run and its faults.

    `struck`: nodes that were killed, or stopped for so long that others may miss them; `touched`: by any
    fault; `reigns`: nodes that went on as the end user; `skips`: what was announced of layers.
    """

    def __init__(self, case: Case, seen: Seen):
        self.case, self.seen = case, seen
        self.killed = {strike.node for strike in seen.strikes if strike.kind == "kill"}
        self.stopped = {
            strike.node
            for strike in seen.strikes
            if strike.kind == "stop for good" or (strike.kind == "stop" and strike.lasts_s > LONG_STOP_S)
        }
        self.struck = self.killed | self.stopped
        self.touched = {strike.node for strike in seen.strikes}
        self.reigns = sorted({event.node for record in seen.records for event in record.named("takeover")})
        self.skips = [
            event for record in seen.records for event in record.named("rerouted") if " skipped" in event.text
        ]
        self.is_skipped = bool(self.skips) or " skipped" in seen.stderr

    def done(self) -> list[Record]:
        return [record for record in self.seen.records if record.end == "done"]

    def is_whole(self, record: Record) -> bool:
        """Whether the record has all answers. A file of prompts ends early without its mpirun, a chat without
        its end user, too."""
        answers, way = record.answers(), self.case.way
        may_be_fewer = LAUNCHER in self.killed if way == "prompts" else self.reigns or LAUNCHER in self.killed
        if len(answers) < (1 if may_be_fewer and way != "prompt" else len(self.case.expected)):
            return False
        return all(
            each.is_answered and (self.is_skipped or len(each.rows) == len(expected.rows))
            for each, expected in zip(answers, self.case.expected, strict=False)
        )

    def is_shown(self) -> bool:
        """Whether standard output is to have all of the text: where both its writer and mpirun are gone, none
        of those who go on can write there."""
        return bool(self.done()) and not (self.reigns and LAUNCHER in self.killed)

    def says_why(self) -> bool:
        """Whether a sentence that is not the launcher's tells why the run ends."""
        return any(
            not USUAL.search(line) and not LAUNCHERS.search(line) for line in self.seen.stderr.splitlines()
        )

    def may_end(self) -> str:
        """Return which of the faults is more than is survived; '' where all are survived."""
        if any(strike.before_ready and strike.node in self.struck for strike in self.seen.strikes):
            return "start"
        if 0 in self.struck:
            if not self.case.standby or self.case.ranks < 3:
                return "end user"
            if self.struck & (self.standbys() | set(self.reigns)) - {0}:
                return "standby too"
            gone = len(self.killed - {LAUNCHER})
            votes = self.case.ranks - len(self.struck - {LAUNCHER})
            if 2 * votes <= self.case.ranks - gone:
                return "no majority"
        if LAUNCHER in self.killed and self.case.way == "prompts":  # the others are asked by --resume
            return "mpirun"
        return "layers" if self.lost_layers() else ""

    def stands_still(self) -> bool:
        """Whether an end user that is stopped for good, and has no standby, keeps the run from its end. None
        is promised before --give-up-s."""
        forever = {strike.node for strike in self.seen.strikes if strike.kind == "stop for good"}
        return bool((forever - self.killed) & {0, *self.reigns}) and self.may_end() in (
            "end user", "standby too", "no majority",
        )  # fmt: skip

    def standbys(self) -> set[int]:
        """Return the nodes that stood by at some time, as far as is known from outside."""
        found = {strike.node for strike in self.seen.strikes if strike.target in ("standby", "successor")} | {
            int(record.attributes.get("standby", -1)) for record in self.seen.records[:1]
        }
        return found | {int(node) for node in re.findall(r"node (\d+) stands by", self.seen.stderr)}

    def lost_layers(self) -> set[int]:
        """Return the layers all of whose holders at the start were struck."""
        return {layer for layer, holders in self.holders().items() if holders and holders <= self.struck}

    def holders(self) -> dict[int, set[int]]:
        """layer -> nodes that held it at the start."""
        found: dict[int, set[int]] = {}
        for record in self.seen.records[:1]:
            for node, blocks in record.attributes.get("placement", {}).items():
                for layer in (layer for block in blocks for layer in layers_of(block)):
                    found.setdefault(layer, set()).add(int(node))
            for block, nodes in record.attributes.get("copies", {}).items():
                for layer in layers_of(block):
                    found.setdefault(layer, set()).update(map(int, nodes))
        return found


def layers_of(block: str) -> range:
    """Return the layers that "7-12", or "0", names."""
    first, _, last = block.partition("-")
    return range(int(first), int(last or first) + 1)
