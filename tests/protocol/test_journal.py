"""What a stage keeps of what it ran, when messages come late, twice or not at all."""

import pytest

from jarvis_mpi.protocol.journal import Behind, Journalled
from jarvis_mpi.protocol.wire import Kind, Message

BLOCK = range(1, 2)


class Echo:
    """A stage whose rows are those that it was sent."""

    def run(self, body, start, sequence):
        return bytes(body)

    def crop(self, sequence, end):
        return True

    def forget(self, sequence):
        pass


def step(number: int, start: int, rows: bytes, first: int, drafted: int = 0) -> Message:
    return Message(Kind.STEP, 0, 1, number, start, len(rows), first, drafted, 0, (), body=rows)


def test_a_piece_that_comes_again_brings_its_own_rows_alone():
    stage = Journalled(Echo(), BLOCK, 100)
    stage.run(step(0, 0, b"abc", 0), 0)
    stage.run(step(0, 3, b"de", 0), 3)
    assert stage.run(step(0, 0, b"abc", 0), 0) == (b"abc", 0)


def test_drafts_do_not_count_where_the_first_piece_of_a_step_got_lost():
    """It would have said from where on they were wrong."""
    stage = Journalled(Echo(), BLOCK, 100)
    stage.run(step(0, 0, b"aXY", 0, drafted=2), 0)
    with pytest.raises(Behind) as behind:
        stage.run(step(2, 4, b"e", 2), 4)  # its first piece was of positions 1 to 3
    assert behind.value.have == 1
