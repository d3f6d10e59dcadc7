"""Makes the coordinator of a standby that takes over: it goes on where the end user before it was."""

from collections.abc import Callable

from .cluster import Cluster
from .coordinator import Coordinator
from .node_state import Sign, State
from .request import Request
from .standby import StandbyWorker


def cluster_taken_over(standby: StandbyWorker, at_start: Cluster) -> Cluster:
    """The cluster as the standby knows it: who has not voted for it is silent, as the end user before is."""
    cluster = standby.transcript.cluster_after(at_start)
    before = cluster.end_user
    cluster = cluster.with_end_user(standby.link.me)
    for node in cluster.holds.keys() - {standby.link.me}:
        if node in standby.certain:
            cluster = cluster.with_event(node, Sign.LOST)
        elif node == before:
            cluster = cluster.with_event(node, Sign.SILENT).with_event(node, Sign.GIVEN_UP)
        elif node not in standby.voted:
            cluster = cluster.with_event(node, Sign.SILENT)
        elif cluster.state(node) is State.SILENT:
            cluster = cluster.with_event(node, Sign.BACK)
    return cluster


def take_over(
    standby: StandbyWorker, at_start: Cluster, coordinator_of: Callable[[Cluster], Coordinator]
) -> Coordinator:
    """The coordinator of a standby that has won; `coordinator_of` makes it of its cluster, for its term.

    Each request begins anew, but the nodes' stages have run most of its text: what they said in their votes.
    """
    transcript = standby.transcript
    coordinator = coordinator_of(cluster_taken_over(standby, at_start))
    coordinator.step = transcript.next_step()
    coordinator.tenure.transcript.entries = list(transcript.entries)
    voted = {standby.link.me: standby.ran(), **standby.voted}
    for sequence, ids in transcript.texts().items():
        request = Request(sequence, coordinator.route_changes.for_another_sequence(), ids)
        request.ran = len(ids)
        for node, stages in voted.items():
            for ran in (ran for ran in stages if ran.sequence == sequence):
                block = range(ran.first_layer, ran.end_layer)
                request.progress.match[node, block] = transcript.sure(ran)
                request.branch = max(request.branch, ran.branch + 1)
        request.branch = max(request.branch, transcript.branch(sequence) + 1)
        coordinator.dispatch.requests[sequence] = request
    return coordinator
