"""Makes the coordinator of a standby that takes over: it goes on where the end user before it was."""

from collections.abc import Callable

from .cluster import Cluster
from .coordinator import Coordinator
from .failure_detector import Notice
from .node_state import Sign
from .request import Request
from .standby import StandbyWorker

UNUSED = 64  # further than the branches that an end user before may have begun, unknown to its standby


def take_over(
    standby: StandbyWorker, at_start: Cluster, coordinator_of: Callable[[Cluster], Coordinator]
) -> Coordinator:
    """The coordinator of a standby that has won; `coordinator_of` makes it of its cluster, for its term.

    Each request begins anew, but the nodes' stages have run most of its text: what they said in their votes.
    """
    transcript, me = standby.transcript, standby.link.me
    cluster = transcript.cluster(at_start)
    coordinator = coordinator_of(cluster.with_end_user(me))
    coordinator.step = transcript.next_step()
    for node, sign in transcript.signs():
        if node != me:  # an end user that was cut off takes its standby for silent
            coordinator.act_on([Notice(node, sign)])
    coordinator.tenure.go_on_from(transcript, coordinator.step)
    for node in sorted(coordinator.cluster.holds.keys() - {me}):
        coordinator.act_on([Notice(node, sign) for sign in signs_of(standby, node, cluster.end_user)])
        coordinator.detector.liveness[node].alive_at = standby.alive_at(node)
    voted = {me: standby.ran(), **standby.voted}
    for sequence, ids in transcript.texts().items():
        request = Request(sequence, coordinator.route_changes.for_another_sequence(), ids)
        request.ran = len(ids)
        request.branch, request.newer_branch = transcript.branch(sequence), UNUSED
        for node, stages in voted.items():
            for ran in (ran for ran in stages if ran.sequence == sequence):
                block = range(ran.first_layer, ran.end_layer)
                request.progress.match[node, block] = transcript.sure(ran)
                if ran.branch > request.branch:  # of a question that got lost
                    request.branch = ran.branch + UNUSED
        coordinator.dispatch.requests[sequence] = request
    return coordinator


def signs_of(standby: StandbyWorker, node: int, before: int) -> tuple[Sign, ...]:
    """What is known of another node now; of who has not voted, and may be at work, nothing."""
    if node in standby.certain:
        return (Sign.LOST,)
    if node == before:
        return Sign.SILENT, Sign.GIVEN_UP
    return (Sign.BACK,) if node in standby.voted else ()
