"""Notes: each is the JSON that it was when notes were dictionaries, and what cannot be read is refused."""

import json
from dataclasses import fields

import pytest

from jarvis_mpi.net.handshake import Hello, Report
from jarvis_mpi.net.plan import Plan, RunOptions
from jarvis_mpi.protocol.election import Term
from jarvis_mpi.protocol.notes import (
    Acknowledged,
    Claim,
    CopyLoaded,
    CopyRefused,
    Entries,
    Failed,
    Farewell,
    ForgetSequence,
    GivesUp,
    LoadCopy,
    Note,
    Ping,
    Pong,
    Ready,
    Shrink,
    StageBehind,
    StandBy,
    StandsBy,
    Vote,
    read,
)  # fmt: skip
from jarvis_mpi.protocol.steps_in_flight import Pace
from jarvis_mpi.protocol.transcript import Ran
from jarvis_mpi.protocol.wire import Garbled, Kind, Message
from jarvis_mpi.study.distribute import UnitDone, WorkOn
from jarvis_mpi.testbed.link_rates import LinkMeasured, MeasureTo, Received

NOTES = {
    '{"ping": 1.25}': Ping(1.25),
    '{"over": 3}': ForgetSequence(3),
    '{"load": [4, 6]}': LoadCopy(range(4, 6)),
    '{"shrink": [0, 2], "attempt": 1, "certain": true}': Shrink([0, 2], 1, True),
    '{"node": 2, "pong": 1.25, "clock_s": 7.5}': Pong(2, 1.25, 7.5),
    '{"node": 2, "sequence": 0, "epoch": 5, "behind": [4, 6], "have": 9}': StageBehind(
        2, 0, 5, range(4, 6), 9
    ),
    '{"node": 2, "loaded": [4, 6]}': CopyLoaded(2, range(4, 6)),
    '{"node": 2, "cannot_load": [4, 6]}': CopyRefused(2, range(4, 6)),
    '{"stand_by": [[0, 1], [9, 10]]}': StandBy([range(0, 1), range(9, 10)]),
    '{"node": 2, "able": true}': StandsBy(2, True),
    '{"node": 2, "failed": "Traceback \\u2026"}': Failed(2, "Traceback …"),
    '{"node": 2, "host": "pi2", "gives_up": "no room"}': GivesUp(2, "pi2", "no room"),
    '{"node": 1, "loaded_s": 0.5, "pace": [0.25, 0.125, 0.0]}': Ready(1, 0.5, Pace(0.25, 0.125)),
    '{"node": 2, "peak_bytes": 77000000}': Farewell(2, 77000000),
    '{"blocks": [[4, 6]], "copies": [[6, 8], [0, 1]], "threads": 4, "dtype": "bfloat16", "pieces": [32, '
    '31], "standby": 2, "end_users": [[0, 1]]}': (
        Plan([range(4, 6)], [range(6, 8), range(0, 1)], 4, "bfloat16", [32, 31], 2, [range(0, 1)])
    ),
    '{"claim": 2, "term": [1, 2, -1, 1], "trial": true}': Claim(2, Term(1, 2, -1, 1), True),
    '{"vote": 3, "number": 1, "trial": false, "grants": true, "term": [1, 2, -1, 1], "ran": [[0, 4, 6, 1, '
    "9]]}": Vote(3, 1, False, True, Term(1, 2, -1, 1), [Ran(0, 4, 6, 1, 9)]),
    '{"first": 7, "entries": [["cut", 0, 1]]}': Entries(7, [["cut", 0, 1]]),
    '{"node": 2, "acknowledged": 8}': Acknowledged(2, 8),
    '{"options": {"prompt": null, "stop": ["a", "b"], "seed": 7}}': (
        RunOptions({"prompt": None, "stop": ["a", "b"], "seed": 7})
    ),
    '{"node": 1, "hello": {"node": 1, "host": "pi1", "cores": 4, "machine": "b00t", "pid": 99, '
    '"started": 1.5,'
    ' "free_bytes": 1000, "versions": {"wire": "6"}, "fingerprint": "f", "has_a_part": false, '
    '"daemon_at_home": true,'
    ' "patches": ""}}': Report(
        1, Hello(1, "pi1", 4, "b00t", 99, 1.5, 1000, {"wire": "6"}, "f", False, True, "")
    ),
    '{"unit": [0, 3, "skip"]}': WorkOn([0, 3, "skip"]),
    '{"node": 2, "came": [0.5]}': UnitDone(2, [0.5]),
    '{"measure": 2}': MeasureTo(2),
    '{"here": 16384}': Received(16384),
    '{"measured": [1, 2, 0.001, 8000000.0]}': LinkMeasured([1, 2, 0.001, 8e6]),
}
KINDS = tuple(type(note) for note in NOTES.values())


def noted(body: str) -> Message:
    return Message(Kind.NOTE, body=body.encode())


def test_every_kind_of_note_is_here():
    assert set(Note.__subclasses__()) == set(KINDS)


@pytest.mark.parametrize("body", NOTES)
def test_a_note_is_the_json_that_it_was(body):
    note = NOTES[body]
    assert note.pack() == noted(body).pack()
    assert read(Message.unpack(bytearray(note.pack())), *KINDS) == note


@pytest.mark.parametrize("body", NOTES)
def test_a_note_of_another_kind_is_nobodys(body):
    others = [kind for kind in KINDS if kind is not type(NOTES[body])]
    assert read(noted(body), *others) is None


@pytest.mark.parametrize("body", NOTES)
def test_a_note_that_lacks_a_field_is_refused(body):
    kind, payload = type(NOTES[body]), json.loads(body)
    assert len(payload) == len(fields(kind))
    for lacking in payload.keys() - {kind.MARK}:
        rest = {name: value for name, value in payload.items() if name != lacking}
        with pytest.raises(Garbled, match=lacking):
            read(noted(json.dumps(rest)), kind)


def test_what_is_no_json_or_no_block_is_refused():
    for body in ("", "{", "\x00", '{"node": 2'):
        with pytest.raises(Garbled, match="line 1 column"):
            read(noted(body), *KINDS)
    with pytest.raises(Garbled, match="can't decode"):
        read(Message(Kind.NOTE, body=b'{"node": "\xff"}'), *KINDS)
    with pytest.raises(Garbled, match="recursion"):
        read(Message(Kind.NOTE, body=b"[" * 200_000), *KINDS)
    for body in ("5", "null", "[1]", '{"load": 4}', '{"load": ["4", "6"]}', '{"load": null}'):
        with pytest.raises(Garbled):
            read(noted(body), LoadCopy)
