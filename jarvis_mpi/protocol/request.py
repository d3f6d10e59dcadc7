"""A request in flight: what the end user knows of one sequence, and its step under way."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field

from ..common.sequences import alike
from .cluster import Hop
from .progress import Progress
from .route_changes import RouteChanges
from .wire import Message

WORTHWHILE_ROWS = 96  # of a piece of the prompt: 32 rows cost nearly twice as much a row as 128


@dataclass
class Step:
    """One step under way: the positions from `start` to `end`, the last of them drafts."""

    number: int
    start: int
    end: int
    drafts: Sequence[int] = ()
    epoch: int = 0
    attempts: int = 1
    route: tuple[Hop, ...] = ()
    unsent: list[int] = field(default_factory=list)  # the ends of its pieces that are still here
    awaited: set[int] = field(default_factory=set)  # the ends of those that have not returned
    returned: list[Message] = field(default_factory=list)
    embed_s: float = 0.0
    sent_at: float = 0.0  # for the first time
    since: float = 0.0  # when it was sent, or its last piece returned

    def last_piece(self) -> Message:
        """Of those that have returned, put in order."""
        self.returned.sort(key=lambda message: message.end)
        return self.returned[-1]


@dataclass
class Request:
    """One sequence that is asked for. `tokens_left`: how many more tokens it may have."""

    sequence: int
    route_changes: RouteChanges
    ids: list[int] = field(default_factory=list)  # all of the text
    branch: int = 0  # grows when some of it is taken back
    newer_branch: int = 1  # by how much it then grows
    ran: int = 0  # positions of it that every stage has run, or has under way
    progress: Progress = field(default_factory=Progress)
    step: Step | None = None
    tokens_left: int = 0
    end_ids: Set[int] = frozenset()
    chosen_at: float = 0.0  # the token before
    waits: bool = False  # for its first step, until it is sure who can be heard

    def continue_with(self, text: Sequence[int]) -> int:
        """All of the text so far; what was run of it need not be run again. -> from where on it is new."""
        same = alike(self.ids, text)
        if same < self.ran:
            self.branch, self.newer_branch = self.branch + self.newer_branch, 1
        self.ids = list(text)
        self.ran = min(self.ran, same, len(text) - 1)
        self.progress.crop(self.ran)  # and a step that was broken off did not return
        return same


def pieces(rows: int, most: int, workers: int) -> list[int]:
    """How a prompt of `rows` positions is cut: into pieces of about one size, `most` at the most; one for
    every worker to be busy with, unless that makes them so small that reading weights outweighs the work."""
    count = max(-(-rows // most), min(workers, rows // WORTHWHILE_ROWS))
    return [rows // count + (piece < rows % count) for piece in range(count)]
