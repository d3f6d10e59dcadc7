"""Rank 0: a prompt in, tokens out. READ THIS FIRST.

A token's way: embed it, send the activation round the route (each node runs its layers and passes it
on), turn what comes home into logits, choose the next token.
"""

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from .crew import Crew, Hop
from .link import Link, Lost, Silence, Unservable
from .wire import Kind, Message, Run, read_note
from .worker import Clock, Stages, run_own_hops

WORTHWHILE_ROWS = 96  # of a piece of the prompt: 32 rows cost nearly twice as much a row as 128

Choose = Callable[[Any, int], int]  # logits, position -> token id


class Embeds(Protocol):
    """What the head does, here."""

    def embed(self, ids: Sequence[int], start: int) -> bytes: ...
    def logits(self, body: bytes | memoryview) -> Any: ...


@dataclass(frozen=True)
class Token:
    """One token of an answer, and what it cost."""

    step: int
    position: int
    id: int
    total_s: float  # from the token before it to this one: what was done with that one counts too
    head_s: float  # of that: embedding, logits, choice
    pieces: tuple[Message, ...]  # what came home: their `runs` tell each stage's part


class Departure(NamedTuple):
    """What has left for one step."""

    pieces: int
    embed_s: float
    at_s: float  # when the last piece left


@dataclass(frozen=True)
class EndUser:
    """Everything rank 0 needs to ask."""

    link: Link
    crew: Crew
    head: Embeds
    stages: Stages  # the end user's own layers
    choose: Choose
    clock: Clock
    prefill_rows: int  # of a piece of the prompt, at the most
    timeout_s: float

    def generate(self, prompt: Sequence[int], max_new_tokens: int, end_ids: Set[int]) -> Iterator[Token]:
        """Yield the answer's tokens, the end token included. Raises Unservable if a node fails.

        The next token's activation leaves before a token is yielded: it travels while that one is shown.
        """
        ids, route = list(prompt), self.crew.route()
        chosen_at = self.clock()
        left = self.depart(route, 0, ids, 0)
        for step in range(max_new_tokens):
            home = self.come_home(step, left)
            home_at = self.clock()
            token = self.choose(self.head.logits(home[-1].body), len(ids))
            now = self.clock()
            chosen = Token(step, len(ids), token, now - chosen_at, left.embed_s + now - home_at, home)
            chosen_at = now
            ids.append(token)
            last = token in end_ids or step + 1 == max_new_tokens
            if not last:
                left = self.depart(route, step + 1, ids[-1:], len(ids) - 1)
            yield chosen
            if last:
                return

    def depart(self, route: tuple[Hop, ...], step: int, ids: Sequence[int], start: int) -> Departure:
        """Embed `ids`, at positions start, start + 1, ..., and send them on their way.

        A prompt travels in pieces, one behind the other, so that while one node works on a piece the
        next works on the piece before.
        """
        embed_s = 0.0
        sizes = pieces(len(ids), self.prefill_rows, self.link.size - 1)
        for rows in sizes:
            piece, ids = ids[:rows], ids[rows:]
            begun = self.clock()
            body = self.head.embed(piece, start)
            embed_s += self.clock() - begun
            self.pass_on(Message(Kind.STEP, 0, 0, step, start, rows, route, (), body))
            start += rows
        return Departure(len(sizes), embed_s, self.clock())

    def come_home(self, step: int, left: Departure) -> tuple[Message, ...]:
        """The pieces of `step` when they have been everywhere, the end user's own last layers included."""
        home: list[Message] = []
        since = left.at_s
        while len(home) < left.pieces:
            message, received_bytes = self.receive()
            if message.step == step:
                arrival = Run(self.link.me, range(0), self.clock() - since, 0.0, 0.0, received_bytes)
                home.append(run_own_hops(arrival, self.stages, message, self.clock))
                since = self.clock()
        return tuple(home)

    def receive(self) -> tuple[Message, int]:
        """The next activation, and the bytes it came in."""
        try:
            data = self.link.receive(self.timeout_s)
        except Silence:
            raise Unservable(f"no activation came home in {self.timeout_s:g} s (--timeout-s)") from None
        except Lost as lost:
            raise Unservable(f"{lost}, and nothing takes over yet") from None
        message = Message.unpack(data)
        if message.kind is Kind.NOTE:
            raise Unservable(failure_of(message))
        return message, len(data)

    def pass_on(self, message: Message) -> None:
        message = run_own_hops(
            Run(self.link.me, range(0), 0.0, 0.0, 0.0, 0), self.stages, message, self.clock
        )
        self.link.send(message.ahead[0].node, message.pack())


def pieces(rows: int, most: int, workers: int) -> list[int]:
    """How a prompt of `rows` positions is cut: into pieces of about one size, `most` at the most; one for every
    worker to be busy with, unless that makes them so small that reading weights outweighs the work."""
    count = max(-(-rows // most), min(workers, rows // WORTHWHILE_ROWS))
    return [rows // count + (piece < rows % count) for piece in range(count)]


def failure_of(message: Message) -> str:
    """What a worker that gives up says of itself, as a sentence."""
    note = read_note(message)
    return f"node {note['node']} ({note['host']}): {note['failed']}"
