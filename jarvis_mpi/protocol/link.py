"""What a network must do for us, and the ways in which it, or the user, can fail us."""

from collections.abc import Iterable, Sequence
from typing import Protocol


class Silence(Exception):
    """Nothing arrived, or nothing could be sent, in the time given. The end user acts."""


class Lost(Exception):
    """The network knows that these nodes are gone. The end user acts."""

    def __init__(self, nodes: Iterable[int]):
        self.nodes = tuple(sorted(nodes))
        super().__init__(
            f"{'node' if len(self.nodes) == 1 else 'nodes'} {', '.join(map(str, self.nodes))} died"
        )


class Link(Protocol):
    """Point to point messages between nodes. No call waits without a deadline."""

    me: int
    size: int  # how many nodes were launched
    vendor: str  # whose MPI it is
    end_user: int  # which node asks, as far as this one knows

    @property
    def sender(self) -> int:
        """Who sent what `receive` returned last."""
        ...

    @property
    def nodes(self) -> Sequence[int]:
        """Those in the newest communicator: see shrink."""
        ...

    @property
    def orphaned(self) -> bool:
        """Whether the launcher is gone: the network learns of no further death by itself."""
        ...

    def send(self, node: int, data: bytes) -> None:
        """Post `data` to `node` and return.
        Raises Lost, as the next `receive` will; a send that stays stuck shows in `flush`."""
        ...

    def flush(self, timeout_s: float) -> None:
        """Wait until everything posted is under way. Raises Silence or Lost."""
        ...

    def receive(self, timeout_s: float) -> bytearray:
        """The next message from anyone. Raises Silence or Lost."""
        ...

    def beat(self, node: int, data: bytes) -> None:
        """Post `data` to `node` if the one before it is under way, else drop it. From any thread."""
        ...

    def sending(self) -> bool:
        """Whether something posted is not under way yet."""
        ...

    def shrink(self, attempt: int, members: Sequence[int], certain: bool) -> None:
        """Begin to drop all but `members` from the communicator, and return: `nodes` tells when it is done.

        All members are told the same. `certain`: the network knows all others to be gone.
        """
        ...
