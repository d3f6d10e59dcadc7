"""The end user's part in who is the end user: what it may conclude from signs of the others."""

import pytest

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.protocol.campaign import AGAIN_S
from jarvis_mpi.protocol.election import NOBODY, Term
from jarvis_mpi.protocol.node_state import Sign
from jarvis_mpi.protocol.tenure import Tenure

STANDBY = 3


class Clock:
    now = 10.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tenure(clock):
    return Tenure(0, Term(standby=STANDBY), range(4), lambda node, message: None, clock)


def test_a_standby_that_dies_while_it_is_heard_is_gone_on_without(tenure):
    tenure.sign_seen(STANDBY, Sign.LOST)
    assert tenure.term.standby == NOBODY


def test_an_end_user_that_was_cut_off_does_not_go_on_when_all_others_are_gone(tenure, clock):
    """They may have had another end user meanwhile, which has ended the run."""
    for node in 1, 2, STANDBY:
        tenure.sign_seen(node, Sign.SILENT)
    for node in 1, 2, STANDBY:
        tenure.sign_seen(node, Sign.LOST)
    assert tenure.term.standby == STANDBY
    clock.now += AGAIN_S + 0.1
    with pytest.raises(Unservable, match="node 3, the standby, was silent for too long, and may have gone"):
        tenure.look()
