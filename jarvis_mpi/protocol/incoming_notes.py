"""What a node's note to the end user changes."""

from typing import TYPE_CHECKING, Any

from .failure_detector import Notice
from .link import Link
from .node_state import Sign, State
from .notes import (
    Acknowledged,
    Claim,
    CopyLoaded,
    CopyRefused,
    Failed,
    GivesUp,
    Note,
    Pong,
    StageBehind,
    StandsBy,
    Vote,
)
from .wire import Garbled

if TYPE_CHECKING:
    from .coordinator import Coordinator

NOTES: tuple[type[Note], ...] = (
    StageBehind, Pong, Acknowledged, CopyLoaded, CopyRefused, Failed, GivesUp, Claim, Vote, StandsBy,
)  # fmt: skip


def take_note(asker: "Coordinator", note: Note | None) -> list[Notice]:
    """A worker's; None is one that came too late, of the start or the end."""
    last_words = asker.services.observer.last_words
    match note:
        case StageBehind(node, sequence, epoch, block, have):
            if request := asker.dispatch.of_epoch(sequence, epoch):
                request.progress.behind(node, block, have)
                return [Notice(node, Sign.MISSING, sequence)]
        case Acknowledged() | Claim() | Vote():
            asker.tenure.note_came(note)
        case StandsBy(node=node) if asker.cluster.state(node) is State.UP:
            asker.tenure.next_standby.answered(note)
        case Pong():
            asker.maintenance.clock_answered(note)
        case CopyLoaded(node, block):
            asker.cluster = asker.maintenance.copy_loaded(asker.cluster, node, block, asker.step)
            asker.tenure.copy_loaded(node, block)
        case CopyRefused(node, block):
            asker.maintenance.copy_refused(node, block)
        case Failed(node, traceback):  # and dies, of which MPI tells
            last_words(asker.clock(), asker.step, node, traceback)
        case GivesUp(node=node, sentence=sentence):
            last_words(asker.clock(), asker.step, node, sentence)
            return [Notice(node, Sign.LOST)]
    return []


def from_sender(link: Link, heard: Any) -> Any:
    """Return `heard`. Raises Garbled where it is not of the node that it names."""
    if heard.node != link.sender:
        raise Garbled(f"node {link.sender} speaks for node {heard.node}")
    return heard
