"""Of what was heard, and when, the right signs are made."""

from jarvis_mpi.protocol.cluster import Cluster, Hop
from jarvis_mpi.protocol.failure_detector import RESENDS, FailureDetector
from jarvis_mpi.protocol.node_state import Sign
from jarvis_mpi.protocol.steps_in_flight import Pace, Patience


def test_a_step_that_was_overtaken_on_the_same_way_is_missing():
    cluster = Cluster({0: (range(1),), 1: (range(1, 2),), 2: (range(2, 3),)})
    hops = tuple(Hop(node, block) for block, node in cluster.blocks())
    detector = FailureDetector(cluster.holds, Patience(), {1: Pace(), 2: Pace()}, 0.0, 0.0)
    detector.steps.sent(0, hops, 1, 5, 0.0, more=False, again=False)
    detector.steps.sent(1, hops, 1, 7, 0.1, more=False, again=False)
    detector.step_returned(1, {1, 2}, 0.5, whole=True)
    for now in (0.6, 1.0, 1.4):
        detector.steps.sent(1, hops, 1, 8, now, more=False, again=False)
        detector.step_returned(1, {1, 2}, now, whole=True)
        assert detector.signs(cluster, now) == []
    assert detector.signs(cluster, 1.6) == [(0, Sign.MISSING, 0)]
    for again in range(RESENDS + 1):  # however often: nobody on the way is to blame
        now = 2.0 + 2 * again
        detector.steps.sent(0, hops, 2 + again, 5, now, more=False, again=True)
        detector.steps.sent(1, hops, 1, 9 + again, now, more=False, again=False)
        detector.step_returned(1, {1, 2}, now, whole=True)
        for node in (1, 2):
            detector.liveness[node].alive_at = now + 1.1
        assert detector.signs(cluster, now + 1.1) == [(0, Sign.MISSING, 0)]
