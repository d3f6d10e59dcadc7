"""Judges a run by what was seen of it from outside. It shares no code with the program or other benchmarks.

The rules, as docs/faults.md and the design have them:

1. Text: each token of each record is that of the same run without a fault, up to the first one of which
   fewer layers are noted, and that only where it was announced that layers are skipped.
2. The end: status 0 and all answers whole in a record marked done; or, where the faults were more than is
   survived, a sentence on standard error and another status. Never a traceback, never a death without a
   word. Without mpirun, or with the end user dead, the record's mark stands for the status.
3. Tokens: positions follow one another, none is doubled or lacking; a second record agrees with the first.
   The terminal shows the record's text: all of it, or its beginning where its writer and mpirun are gone. One
   piece, or one line of a file of prompts, may lack where the end user was taken over; none is shown twice.
4. Leftovers: ten seconds after the end no process, nothing in /dev/shm or TMPDIR.
5. Silence: never more than 60 s without a word, a token or an event, and an end within the limit; but where
   an end user is stopped for good that has no standby, for which others wait for 75 s.
6. Loss: what is skipped is what was announced, and only layers all of whose holders were struck.
7. Strangers on ports, short stops and a dead launcher are never a reason to end early.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence

from benchmarks.outside.evidence import LAUNCHER, Record, Seen
from benchmarks.outside.facts import Case, Facts

SILENCE_S = 60.0
SEAM = 60  # bytes that may lack on a terminal where the end user was taken over
ALARMS = {"SILENT", "STALLED", "STUCK", "GIVEN_UP", "GARBLED"}


class Audit:
    """One run, judged."""

    def __init__(self, case: Case, seen: Seen):
        self.facts = Facts(case, seen)

    def wrong(self) -> list[str]:
        """Return what breaks a rule."""
        seen = self.facts.seen
        found = [why for rule in RULES for why in rule(self.facts)]
        if "Traceback (most recent call last)" in seen.stderr:
            found.append("a traceback")
        if seen.limit and self.facts.stands_still():
            return found
        found += seen.left
        if seen.longest_silence_s > SILENCE_S:
            found.append(f"silent for {seen.longest_silence_s:.0f} s")
        if seen.limit:
            found.append(f"ended by us: {seen.limit}")
        return found

    def notes(self) -> list[str]:
        """Return what is no fault, but to be known: false alarms."""
        alarms = {
            f"{event.name} {event.node}"
            for record in self.facts.seen.records
            for event in record.events
            if event.name in ALARMS and event.node not in self.facts.touched
        }
        return [f"false alarm: {each}" for each in sorted(alarms)]

    def outcome(self) -> str:
        """Return how it ended, in a word."""
        facts = self.facts
        if any(facts.is_whole(record) for record in facts.done()):
            by = f" by {facts.reigns[-1]}" if facts.reigns else ""
            return f"skipped{by}" if facts.is_skipped else f"whole{by}"
        return f"ended ({facts.may_end() or 'why?'})"


def text(facts: Facts) -> Iterator[str]:
    """Rule 1."""
    for record in facts.seen.records:
        depth = int(record.attributes.get("depth", 0))
        shorter = next((place for place, row in enumerate(record.rows) if 0 < row.layers < depth), None)
        if any(row.layers > depth for row in record.rows):
            yield f"{record.name}: more layers than the model has"
        answers = record.answers()
        if len(answers) > len(facts.case.expected):
            yield f"{record.name}: {len(answers)} questions of {len(facts.case.expected)}"
        for number, (answer, expected) in enumerate(zip(answers, facts.case.expected, strict=False)):
            if answer.prompt != expected.prompt or answer.begin != expected.begin:
                if not facts.is_skipped:
                    yield f"{record.name}: another question {number}: {answer.prompt!r}"
                continue
            at = differs(answer.tokens, expected.tokens)
            if at is None:
                if answer.is_answered and answer.text != expected.text:
                    yield f"{record.name}: another text, of the same tokens: {answer.text!r}"
                continue
            row = answer.rows[at]
            known = row.layers == 0 or (shorter is not None and shorter <= record.rows.index(row))
            if not (facts.is_skipped and known):
                yield f"{record.name}: another token at {at} of answer {number}, and nobody says so"


def order(facts: Facts) -> Iterator[str]:
    """Rule 3, of one record."""
    for record in facts.seen.records:
        places = [(row.sequence, row.position) for row in record.rows]
        if len(set(places)) < len(places):
            yield f"{record.name}: a token is doubled"
        answers = record.answers()
        if len(record.rows) != sum(len(answer.rows) for answer in answers):
            yield f"{record.name}: tokens of no answer"
        for answer in answers:
            due = list(range(answer.begin, answer.begin + len(answer.rows)))
            if [row.position for row in answer.rows] != due:
                yield f"{record.name}: a token lacks or is out of order"


def agreement(facts: Facts) -> Iterator[str]:
    """Rule 3, of two records: what is in both is the same."""
    for one, other in itertools.combinations(facts.seen.records, 2):
        mine = {(row.sequence, row.position): row.token for row in one.rows}
        theirs = {(row.sequence, row.position): row.token for row in other.rows}
        if any(mine[place] != theirs[place] for place in mine.keys() & theirs.keys()):
            yield f"{one.name} and {other.name} disagree"


def terminal(facts: Facts) -> Iterator[str]:
    """Rule 3, of standard output."""
    if facts.case.way == "prompts":
        yield from lines(facts)
        return
    shown, whole = facts.seen.stdout.rstrip(), facts.case.shown
    if done := facts.done():
        whole = max((text_of(record) for record in done), key=len)
    elif facts.is_skipped:
        return  # an answer under way has no text in the record
    if shown == whole.rstrip() or (whole.startswith(shown) and not facts.is_shown()):
        return
    gap = gap_of(shown, whole.rstrip())
    if gap is None:
        yield f"the terminal shows another text: {shown!r}"
    elif gap < 0:
        yield f"the terminal shows {-gap} bytes twice: {shown!r}"
    elif not (facts.reigns and gap <= SEAM * len(facts.reigns)):
        yield f"the terminal lacks {gap} bytes: {shown!r}"


def lines(facts: Facts) -> Iterator[str]:
    """Check the answers to a file of prompts: one line each, in order."""
    answers = max((record.answers() for record in facts.done()), key=len, default=facts.case.expected)
    expected, found = [(answer.prompt, answer.text) for answer in answers], []
    for line in facts.seen.stdout.decode(errors="replace").splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            if facts.is_shown():
                yield f"no line of JSON: {line!r}"
            continue
        if "text" in said:
            found.append((said["prompt"], said["text"]))
    prompts = [prompt for prompt, _ in found]
    if len(set(prompts)) < len(prompts):
        yield f"an answer is shown twice: {prompts}"
    elif prompts != [prompt for prompt, _ in expected if prompt in prompts]:
        yield f"the answers are out of order: {prompts}"
    if not set(found) <= set(expected) and (facts.done() or not facts.is_skipped):
        yield f"another answer on the terminal: {set(found) - set(expected)}"
    if facts.is_shown() and len(found) < len(expected) - len(facts.reigns):
        yield f"the terminal lacks {len(expected) - len(found)} of {len(expected)} answers"


def end(facts: Facts) -> Iterator[str]:
    """Rules 2 and 7."""
    done, status = facts.done(), facts.seen.status
    if facts.seen.limit:
        return
    whole = any(facts.is_whole(record) for record in done)
    if done and not whole:
        counts = [[len(each.rows) for each in record.answers()] for record in done]
        yield f"a record is marked done, and not whole: {counts}"
    if whole:
        if status != 0 and not facts.killed & {0, LAUNCHER} and 0 not in facts.stopped:
            yield f"all is answered, and the status is {status}"
        return
    if status == 0 and not facts.reigns:
        yield "status 0, and no whole record"
    reason = facts.may_end()
    if not reason:
        last = [record.events[-1].text for record in facts.seen.records if record.end == "ended"]
        yield f"it ended early: status {status}, {last}"
    elif reason != "end user" and not facts.says_why():
        yield f"it ended early ({reason}) without a sentence: status {status}"


def losses(facts: Facts) -> Iterator[str]:
    """Rule 6."""
    blocks = {(event.first_layer, event.layers) for event in facts.skips}
    sizes = {
        sum(layers for _, layers in chosen)
        for count in range(1, len(blocks) + 1)
        for chosen in itertools.combinations(blocks, count)
    }
    for record in facts.seen.records:
        depth = int(record.attributes.get("depth", 0))
        missing = {depth - row.layers for row in record.rows if 0 < row.layers < depth}
        if unsaid := sorted(missing - sizes):
            yield f"{record.name}: tokens lack {unsaid} layers, announced is {sorted(blocks)}"
        for event in record.named("LOST"):
            if event.node not in facts.touched:
                yield f"{record.name}: node {event.node} died by itself at step {event.step}"
    lost = facts.lost_layers()
    for event in facts.skips:
        if not set(range(event.first_layer, event.first_layer + event.layers)) & lost:
            yield f"skipped, and a holder was never struck: {event.text}"


RULES: tuple[Callable[[Facts], Iterator[str]], ...] = (text, order, agreement, terminal, end, losses)


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
