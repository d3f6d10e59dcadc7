"""Judges a run by what was seen of it from outside. It shares no code with the program or other benchmarks.

The rules, as docs/faults.md and the design have them:

1. Text: each token of each record is that of the same run without a fault, up to the first one of which
   fewer layers are noted, and that only where it was announced that layers are skipped.
2. The end: status 0 and all answers whole in a record marked done; or, where the faults were more than is
   survived, a sentence on standard error and another status. Never a traceback, never a death without a
   word. Without mpirun, or with the end user dead, the record's mark stands for the status.
3. Tokens: positions follow one another, none is doubled or lacking; a second record agrees with the first.
   The terminal shows the record's text: all of it, or its beginning where whoever wrote it is gone. One piece
   may lack where the end user was taken over; none is shown twice.
4. Leftovers: ten seconds after the end no process, nothing in /dev/shm or TMPDIR.
5. Silence: never more than 60 s without a word, a token or an event, and an end within the limit.
6. Loss: what is skipped is what was announced, and only layers all of whose holders were struck.
7. Strangers on ports, short stops and a dead launcher are never a reason to end early.
"""

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.outside.evidence import LAUNCHER, Answer, Record, Seen

SILENCE_S = 60.0
SEAM = 60  # bytes that may lack on a terminal where the end user was taken over
LONG_STOP_S = 0.7  # a stop that others may take for silence: --silence-s is 1, machines are busy
USUAL = re.compile(
    r"^starting, |ready in [\d.]+ s:|goes on if the end user dies|^the answer is cut after|^node +host "
    r"|^(\d+|end user) +\S+ .* +[\d.]+ +[\d.]+$|tokens: the first after|waits? as a spare|^\s*$"
    r"|^node \d+ (lost|silent|stalled|stuck|late|given up|garbled|back|missing)\b.* at step|stands by for"
    r"|^node \d+ \(.*\): "
)
LAUNCHERS = re.compile(r"^-+$|prterun|mpirun|PRTE|PMIx|MPI_|^\[\S+:\d+\]|exited on signal|MPI process|^\* ")


@dataclass(frozen=True)
class Case:
    """What was ordered. `way`: prompt, prompts or chat; `expected`: the answers without a fault."""

    ranks: int
    standby: bool
    copies: int
    way: str
    expected: Sequence[Answer]
    shown: bytes  # on standard output, without a fault


class Audit:
    """One run and its faults."""

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

    def wrong(self) -> list[str]:
        """Return what breaks a rule."""
        found = [
            *self.text(), *self.order(), *self.agreement(), *self.terminal(), *self.end(), *self.losses(),
            *self.seen.left,
        ]  # fmt: skip
        if "Traceback (most recent call last)" in self.seen.stderr:
            found.append("a traceback")
        if self.seen.longest_silence_s > SILENCE_S:
            found.append(f"silent for {self.seen.longest_silence_s:.0f} s")
        if self.seen.limit:
            found.append(f"ended by us: {self.seen.limit}")
        return found

    # -- text

    def text(self) -> Iterator[str]:
        for record in self.seen.records:
            depth = int(record.attributes.get("depth", 0))
            shorter = next((place for place, row in enumerate(record.rows) if 0 < row.layers < depth), None)
            if any(row.layers > depth for row in record.rows):
                yield f"{record.name}: more layers than the model has"
            answers = record.answers()
            if len(answers) > len(self.case.expected):
                yield f"{record.name}: {len(answers)} questions of {len(self.case.expected)}"
            for number, (answer, expected) in enumerate(zip(answers, self.case.expected, strict=False)):
                if answer.prompt != expected.prompt or answer.begin != expected.begin:
                    if not self.is_skipped:
                        yield f"{record.name}: another question {number}: {answer.prompt!r}"
                    continue
                at = differs(answer.tokens, expected.tokens)
                if at is None:
                    if answer.is_answered and answer.text != expected.text:
                        yield f"{record.name}: another text, of the same tokens: {answer.text!r}"
                    continue
                place = record.rows.index(answer.rows[at])
                known = answer.rows[at].layers == 0 or (shorter is not None and shorter <= place)
                if not (self.is_skipped and known):
                    yield f"{record.name}: another token at {at} of answer {number}, and nobody says so"

    def order(self) -> Iterator[str]:
        for record in self.seen.records:
            places = [(row.sequence, row.position) for row in record.rows]
            if len(set(places)) < len(places):
                yield f"{record.name}: a token is doubled"
            answers = record.answers()
            if len(record.rows) != sum(len(answer.rows) for answer in answers):
                yield f"{record.name}: tokens of no answer"
            for answer in answers:
                if [row.position for row in answer.rows] != list(
                    range(answer.begin, answer.begin + len(answer.rows))
                ):
                    yield f"{record.name}: a token lacks or is out of order"

    def agreement(self) -> Iterator[str]:
        """Two records of one run: what is in both is the same; the later end user lacks nothing shown."""
        for one, other in itertools.combinations(self.seen.records, 2):
            mine = {(row.sequence, row.position): row.token for row in one.rows}
            theirs = {(row.sequence, row.position): row.token for row in other.rows}
            if any(mine[place] != theirs[place] for place in mine.keys() & theirs.keys()):
                yield f"{one.name} and {other.name} disagree"

    def terminal(self) -> Iterator[str]:
        """Standard output, against the text."""
        shown = self.seen.stdout
        if self.case.way == "prompts":
            yield from self.lines(shown)
            return
        whole = self.case.shown
        if self.is_skipped:
            whole = max((text_of(record) for record in self.seen.records), key=len, default=b"")
            if len(shown) > len(whole) and shown.startswith(whole.rstrip()):
                return  # an answer under way has no text in the record
        if shown.rstrip() == whole.rstrip() or (
            whole.startswith(shown.rstrip()) and not self.must_be_whole()
        ):
            return
        gap = gap_of(shown.rstrip(), whole.rstrip())
        if self.is_skipped and not any(record.end == "done" for record in self.seen.records):
            return
        if gap is None:
            yield f"the terminal shows another text: {shown!r}"
        elif gap < 0:
            yield f"the terminal shows {-gap} bytes twice: {shown!r}"
        elif not (self.reigns and gap <= SEAM * len(self.reigns)):
            yield f"the terminal lacks {gap} bytes: {shown!r}"

    def lines(self, shown: bytes) -> Iterator[str]:
        """Check the answers to a file of prompts, one line each."""
        expected = [(answer.prompt, answer.text) for answer in self.case.expected]
        if self.is_skipped:
            records = [
                [(each.prompt, each.text) for each in record.answers()] for record in self.seen.records
            ]
            expected = max(records, key=len, default=[])
        found = []
        for line in shown.decode().splitlines():
            try:
                said = json.loads(line)
            except ValueError:
                if self.must_be_whole():
                    yield f"no line of JSON: {line!r}"
                continue
            if "text" in said:
                found.append((said["prompt"], said["text"]))
        prompts = [prompt for prompt, _ in found]
        if len(set(prompts)) < len(prompts):
            yield f"an answer is shown twice: {prompts}"
        if not set(found) <= set(expected) and not self.is_skipped:
            yield f"another answer on the terminal: {set(found) - set(expected)}"
        if self.must_be_whole() and len(found) < len(expected):
            yield f"the terminal lacks {len(expected) - len(found)} of {len(expected)} answers"

    def must_be_whole(self) -> bool:
        """Whether the terminal must show all that was to be answered."""
        return self.seen.status == 0 and not self.killed & {0, LAUNCHER} and not self.stopped & {0}

    # -- the end

    def end(self) -> Iterator[str]:
        done = [record for record in self.seen.records if record.end == "done"]
        ended = [record for record in self.seen.records if record.end == "ended"]
        whole = any(self.is_whole(record) for record in done)
        status = self.seen.status
        if self.seen.limit:
            return
        if done and not whole:
            counts = [[len(each.rows) for each in record.answers()] for record in done]
            yield f"a record is marked done, and not whole: {counts}"
        if whole:
            if status != 0 and not self.killed & {0, LAUNCHER} and not self.stopped & {0}:
                yield f"all is answered, and the status is {status}"
            return
        if status == 0 and not self.reigns:
            yield "status 0, and no whole record"
        reason = self.may_end()
        if not reason:
            last = [event.text for each in ended for event in each.events[-1:]]
            yield f"it ended early: status {status}, {last}"
        elif not self.says_why() and reason != "end user":
            yield f"it ended early ({reason}) without a sentence: status {status}"

    def is_whole(self, record: Record) -> bool:
        """Whether the record has all answers; a chat ends early without its end user or mpirun."""
        answers = record.answers()
        may_be_fewer = self.touched & {0, LAUNCHER} and self.case.way != "prompt"
        if len(answers) < (1 if may_be_fewer else len(self.case.expected)):
            return False
        return all(
            each.is_answered and (self.is_skipped or len(each.rows) == len(expected.rows))
            for each, expected in zip(answers, self.case.expected, strict=False)
        )

    def says_why(self) -> bool:
        """Whether a sentence that is not the launcher's tells why the run ends."""
        return any(
            not USUAL.search(line) and not LAUNCHERS.search(line) for line in self.seen.stderr.splitlines()
        )

    def may_end(self) -> str:
        """Return which of the faults is more than is survived; '' where all are survived."""
        if any(strike.before_ready and strike.node in self.struck for strike in self.seen.strikes):
            return "start"
        heads = {0, *self.reigns}
        if 0 in self.struck:
            if not self.case.standby or self.case.ranks < 3:
                return "end user"
            standbys = {
                strike.node for strike in self.seen.strikes if strike.target in ("standby", "successor")
            }
            first = {int(record.attributes.get("standby", -1)) for record in self.seen.records[:1]}
            if self.struck & (heads | standbys | first) - {0}:
                return "standby too"
            gone = len(self.killed - {LAUNCHER})
            votes = self.case.ranks - len(self.struck - {LAUNCHER})
            if 2 * votes <= self.case.ranks - gone:
                return "no majority"
        if self.lost_layers():
            return "layers"
        return ""

    def lost_layers(self) -> set[int]:
        """Return the layers all of whose holders at the start were struck, or touched by a stranger."""
        found = set()
        for layer, holders in self.holders().items():
            if holders and holders <= self.struck:
                found.add(layer)
        return found

    def holders(self) -> dict[int, set[int]]:
        """layer -> nodes that held it at the start."""
        found: dict[int, set[int]] = {}
        for record in self.seen.records[:1]:
            for node, blocks in record.attributes.get("placement", {}).items():
                for block in blocks:
                    for layer in layers_of(block):
                        found.setdefault(layer, set()).add(int(node))
            for block, nodes in record.attributes.get("copies", {}).items():
                for layer in layers_of(block):
                    found.setdefault(layer, set()).update(map(int, nodes))
        return found

    def losses(self) -> Iterator[str]:
        """Check what was skipped against what was announced and struck."""
        blocks = {(event.first_layer, event.layers) for event in self.skips}
        for record in self.seen.records:
            depth = int(record.attributes.get("depth", 0))
            missing = {depth - row.layers for row in record.rows if 0 < row.layers < depth}
            sizes = {
                sum(layers for _, layers in chosen)
                for count in range(1, len(blocks) + 1)
                for chosen in itertools.combinations(blocks, count)
            }
            if unsaid := sorted(missing - sizes):
                yield f"{record.name}: tokens lack {unsaid} layers, announced is {sorted(blocks)}"
        lost = self.lost_layers()
        for event in self.skips:
            if not set(range(event.first_layer, event.first_layer + event.layers)) & lost:
                yield f"skipped, and a holder was never struck: {event.text}"
        yield from self.signs()

    def signs(self) -> Iterator[str]:
        """Check that nobody dies who was not struck."""
        for record in self.seen.records:
            for event in record.named("LOST"):
                if event.node not in self.touched:
                    yield f"{record.name}: node {event.node} died by itself at step {event.step}"

    def notes(self) -> list[str]:
        """Return what is no fault: false alarms, and how it ended."""
        names = {"SILENT", "STALLED", "STUCK", "GIVEN_UP", "GARBLED"}
        alarms = {
            f"{event.name} {event.node}"
            for record in self.seen.records
            for event in record.events
            if event.name in names and event.node not in self.touched
        }
        return [f"false alarm: {each}" for each in sorted(alarms)]

    def outcome(self) -> str:
        """Return how it ended, in a word."""
        if any(self.is_whole(record) for record in self.seen.records if record.end == "done"):
            by = f" by {self.reigns[-1]}" if self.reigns else ""
            return f"skipped{by}" if self.is_skipped else f"whole{by}"
        return f"ended ({self.may_end() or 'why?'})"


def differs(tokens: Sequence[int], expected: Sequence[int]) -> int | None:
    """Return the place of the first token that is not the expected one."""
    for place, token in enumerate(tokens):
        if place >= len(expected) or token != expected[place]:
            return place
    return None


def gap_of(shown: bytes, whole: bytes) -> int | None:
    """Return the bytes that `shown` lacks in one place; fewer than 0: that it shows twice; None: it is
    another text."""
    begin = 0
    while begin < min(len(shown), len(whole)) and shown[begin] == whole[begin]:
        begin += 1
    rest = shown[begin:]
    if whole.endswith(rest):
        return len(whole) - len(shown)
    for back in range(1, begin + 1):  # shown twice, and perhaps cut off
        if whole[begin - back :].startswith(rest) and rest:
            return -back
    at = whole.find(rest, begin) if rest else -1  # it lacks a piece, and is cut off
    return at - begin if at >= 0 else None


def text_of(record: Record) -> bytes:
    return "".join(f"{answer.text}\n" for answer in record.answers() if answer.is_answered).encode()


def layers_of(block: str) -> range:
    """ "7-12" -> 7 to 12, "0" -> 0."""
    first, _, last = block.partition("-")
    return range(int(first), int(last or first) + 1)
