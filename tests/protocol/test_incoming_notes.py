"""What the end user makes of notes: one that names another node than its sender is none of that node's."""

from unittest.mock import MagicMock

import pytest

from jarvis_mpi.protocol.cluster import Cluster
from jarvis_mpi.protocol.coordinator import Coordinator
from jarvis_mpi.protocol.node_state import Sign
from jarvis_mpi.protocol.notes import CopyLoaded, GivesUp
from jarvis_mpi.protocol.services import Parameters, Services


class Said:
    """A link on which node 1 says the same again and again."""

    me, size, sender, orphaned = 0, 3, 1, False
    nodes = (0, 1, 2)

    def __init__(self, note):
        self.data = bytearray(note.pack())

    def receive(self, timeout_s):
        return bytearray(self.data)


def asker_that_hears(note) -> Coordinator:
    services = Services(Said(note), None, {}, None, lambda: 0.0, None, MagicMock())
    holds = {0: (range(0, 1),), 1: (range(1, 2),), 2: (range(2, 3),)}
    return Coordinator(services, Cluster(holds), Parameters(4))


@pytest.mark.parametrize("note", [GivesUp(2, "pi2", "no room"), CopyLoaded(2, range(1, 2))])
def test_a_node_does_not_speak_for_another(note):
    asker = asker_that_hears(note)
    before = asker.cluster
    assert asker.hear(0.0)[0] == []
    assert asker.detector.liveness[1].garbled == 1
    assert asker.cluster is before


def test_a_node_speaks_for_itself():
    notices, _ = asker_that_hears(GivesUp(1, "pi1", "no room")).hear(0.0)
    assert [(each.node, each.sign) for each in notices] == [(1, Sign.LOST)]
