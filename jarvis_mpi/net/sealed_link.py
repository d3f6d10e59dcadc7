"""Encrypts and authenticates each message between two nodes: a Link around the one over MPI.

    magic | number | ciphertext and tag       ChaCha20-Poly1305, which is fast without AES instructions, too

The nonce is both ends and the number, and no end uses a number twice for another: what was changed, moved to
another node, kept from another run or sent again is dropped and counted. Every node has the same key: it
tells strangers from nodes, and not one node from another that lies.
"""

import itertools
import struct
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, TypeVar, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from ..common.errors import Unservable
from ..protocol.link import Silence
from ..protocol.wire import MAGIC as IN_THE_CLEAR

AnyLink = TypeVar("AnyLink")

MAGIC = b"JSL1"
HEADER = struct.Struct("<4sQ")  # magic, number
NONCE = struct.Struct("<HHQ")  # sender, receiver, number
BEATS = 1 << 63  # the first number of a beat: another thread sends them, and messages may overtake them
REMEMBERED = 256  # newest numbers of a sender's messages, and of its beats


def sealed(link: AnyLink, key: bytes, say: Callable[[str], None]) -> AnyLink:
    """Return `link` with its messages sealed; without a key, one that notices a sealed message."""
    return cast(AnyLink, SealedLink(link, key, say) if key else ClearLink(link))


class Window:
    """Remembers which of a sender's numbers have come."""

    def __init__(self) -> None:
        self.newest, self.seen = -1, 0  # bit n: newest - n has come

    def takes(self, number: int) -> bool:
        """Whether a number comes for the first time; one that is too old counts as known."""
        ahead = number - self.newest
        if ahead > 0:
            shifted = self.seen << ahead if ahead < REMEMBERED else 0
            self.newest, self.seen = number, (shifted | 1) & ((1 << REMEMBERED) - 1)
            return True
        if -ahead >= REMEMBERED or self.seen >> -ahead & 1:
            return False
        self.seen |= 1 << -ahead
        return True


class SealedLink:
    """A Link whose messages only holders of the key can read or write."""

    def __init__(self, link: Any, key: bytes, say: Callable[[str], None]):
        """`say` is told once of a node that sends in the clear."""
        self.link, self.say, self.cipher = link, say, ChaCha20Poly1305(key)
        # To each node. next() is atomic.
        self.messages = [itertools.count() for _ in range(link.size)]
        self.beats = [itertools.count(BEATS) for _ in range(link.size)]
        self.windows = defaultdict[tuple[int, bool], Window](Window)  # sender, of its beats
        self.sender = -1
        self.dropped = Counter[int]()  # by the node that they seemed to come from
        self.clear = set[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.link, name)

    @property
    def refused(self) -> str:
        """What is to be said of the messages that were dropped; '' where there were none."""
        if not self.dropped:
            return ""
        nodes = ", ".join(map(str, sorted(self.dropped)))
        count = self.dropped.total()
        return f"node {self.link.me} dropped {count} messages as of node {nodes}: not theirs, or not new"

    def send(self, node: int, data: bytes) -> None:
        self.link.send(node, self.seal(node, next(self.messages[node]), data))

    def beat(self, node: int, data: bytes) -> None:
        self.link.beat(node, self.seal(node, next(self.beats[node]), data))

    def receive(self, timeout_s: float) -> bytes:
        end = time.monotonic() + timeout_s
        while True:
            data = self.link.receive(max(0.0, end - time.monotonic()))
            if (body := self.opened(self.link.sender, data)) is not None:
                self.sender = self.link.sender
                return body
            if time.monotonic() > end:
                raise Silence(f"nothing but strangers' messages arrived in {timeout_s:g} s")

    def seal(self, node: int, number: int, data: bytes) -> bytes:
        header = HEADER.pack(MAGIC, number)
        return header + self.cipher.encrypt(NONCE.pack(self.link.me, node, number), data, header)

    def opened(self, sender: int, data: bytes | bytearray) -> bytes | None:
        """Return what a message says; None where it is no new one of `sender` to this node."""
        try:
            magic, number = HEADER.unpack_from(data)
            nonce = NONCE.pack(sender, self.link.me, number)
            body = self.cipher.decrypt(nonce, memoryview(data)[HEADER.size :], data[: HEADER.size])
        except (struct.error, InvalidTag):
            self.drop(sender, data)
            return None
        if magic == MAGIC and self.windows[sender, number >= BEATS].takes(number):
            return body
        self.drop(sender, data)
        return None

    def drop(self, sender: int, data: bytes | bytearray) -> None:
        self.dropped[sender] += 1
        if data[: len(IN_THE_CLEAR)] == IN_THE_CLEAR and sender not in self.clear:
            self.clear.add(sender)
            self.say(
                f"node {sender} sends in the clear, and is not heard: give every host the same jarvis_mpi, "
                "and all ranks the same --secure"
            )


class ClearLink:
    """A Link of a rank that was given no key."""

    def __init__(self, link: Any):
        self.link, self.noticed = link, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.link, name)

    def receive(self, timeout_s: float) -> bytearray:
        """Raises Unservable, once, where a message is sealed."""
        data: bytearray = self.link.receive(timeout_s)
        if data[: len(MAGIC)] == MAGIC and not self.noticed:
            self.noticed = True
            raise Unservable(
                f"node {self.link.sender} seals its messages, but node {self.link.me} was given no key: give "
                "every host the same jarvis_mpi, and all ranks the same --secure"
            )
        return data
