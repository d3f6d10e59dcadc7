"""Gathers the nodes at the start: they report, are compared, and no wait is without a deadline.

Who is missing is bypassed.
"""

import contextlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import psutil

from .. import __version__
from ..common.errors import Unservable
from ..common.layers import END_USER
from ..common.process_identity import machine
from ..protocol import wire
from ..protocol.link import Link, Lost, Silence
from ..protocol.node_state import Sign
from ..protocol.notes import Failed, GivesUp, Note, Ready, read
from ..protocol.wire import Kind, Message
from .far_command import SSH_KEEPALIVE

Clock = Callable[[], float]

SEND_S = 0.5  # longest wait for a hello to be under way
STARTING_SILENCE_S = 30.0  # imports and the reading of weights may hold a beat up for seconds


@dataclass(frozen=True)
class Hello:
    """A node's description of itself."""

    node: int
    host: str
    cores: int
    machine: str  # the same for all ranks of one machine: Pis fresh from the card all have one host name
    pid: int
    started: float  # when the process did, by its own machine's clock: pids are used again
    free_bytes: int
    versions: dict[str, str]
    fingerprint: str  # of the model's files there
    has_a_part: bool  # of the model only: what stage-model sent
    daemon_at_home: bool  # or else this machine's loss ends the run: see launch_agents.py
    patches: str  # the digest of those it has; '': none


@dataclass(frozen=True)
class Report(Note):
    MARK = "hello"
    node: int
    hello: Hello

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> Self:
        return cls(payload["node"], Hello(**payload["hello"]))


Answer = TypeVar("Answer", Report, Ready)


def hello(me: int, fingerprint: str, has_a_part: bool = False, patches: str = "") -> Hello:
    versions = {
        name: importlib.metadata.version(name).partition("+")[0] for name in ("torch", "transformers")
    }
    return Hello(
        node=me,
        host=platform.node(),
        machine=machine(),
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        cores=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
        free_bytes=psutil.virtual_memory().available,
        versions={"jarvis_mpi": __version__, "wire": str(wire.VERSION), **versions},
        fingerprint=fingerprint,
        has_a_part=has_a_part,
        daemon_at_home=SSH_KEEPALIVE in os.environ,
        patches=patches,
    )


class Handshake:
    """Waits for the nodes at the start. `missing`: node -> why."""

    def __init__(self, link: Link, timeout_s: float, clock: Clock):
        self.link, self.timeout_s, self.clock = link, timeout_s, clock
        self.missing: dict[int, Sign] = {}
        self.words: dict[int, str] = {}  # what they said last

    def gather(self, mine: Hello) -> dict[int, Hello]:
        """Return the hellos of all nodes that report, in their order.
        Raises Unservable where one does not fit."""
        hellos = {END_USER: mine}
        for report in self.answers(range(1, self.link.size), Report):
            hellos[report.node] = report.hello
        for node, other in sorted(hellos.items()):
            for name, version in mine.versions.items():
                if other.versions.get(name) != version:
                    raise Unservable(
                        f"node {node} ({other.host}) has {name} {other.versions.get(name)}, "
                        f"the end user {version}: install the same versions on every host"
                    )
            if other.fingerprint != mine.fingerprint:
                raise Unservable(
                    f"node {node} ({other.host}) has other model files than the end user (fingerprint"
                    f" {other.fingerprint}, not {mine.fingerprint}): copy the same folder to every host"
                )
        if len(hellos) == 1:
            late = Sign.LATE in self.missing.values()
            why = f"within {self.timeout_s:g} s (--start-timeout-s)" if late else "and all of them are lost"
            raise Unservable(f"no worker reported {why}")
        return dict(sorted(hellos.items()))

    def await_ready(self, nodes: Iterable[int], tell: Callable[[int], None]) -> dict[int, Ready]:
        """Wait until the workers have loaded their blocks. -> node -> its Ready.
        `tell` is called with each node."""
        loaded = {}
        for ready in self.answers(nodes, Ready):
            loaded[ready.node] = ready
            tell(ready.node)
        return loaded

    def answers(self, nodes: Iterable[int], kind: type[Answer]) -> Iterator[Answer]:
        """Yield the notes of that kind of `nodes` as they come, but of those that are lost, silent or too
        late.

        Raises Unservable if one says why it gives up.
        """
        awaited = set(nodes) - {END_USER} - self.missing.keys()
        end = self.clock() + self.timeout_s
        heard_at = dict.fromkeys(awaited, self.clock())
        while awaited:
            silent_at = min(heard_at[node] for node in awaited) + STARTING_SILENCE_S
            try:
                message = Message.unpack(self.link.receive(max(0.0, min(end, silent_at) - self.clock())))
                beat = wire.Beat.of(message) if message.kind is Kind.BEAT else None
                answer = None if beat else read(message, GivesUp, Failed, kind)
            except Silence:
                late = {
                    node for node in awaited if self.clock() >= min(end, heard_at[node] + STARTING_SILENCE_S)
                }
                self.missing.update(dict.fromkeys(late, Sign.LATE))
                awaited -= late
            except Lost as lost:
                self.missing.update(dict.fromkeys(lost.nodes, Sign.LOST))
                awaited -= set(lost.nodes)
            except wire.OtherVersion as error:
                raise Unservable(f"a node has another version of jarvis_mpi: {error}") from None
            except wire.Garbled:  # its sender is late, then
                continue
            else:
                if beat:
                    heard_at[beat.node] = self.clock()
                elif isinstance(answer, GivesUp):
                    raise Unservable(f"node {answer.node} ({answer.host}): {answer.sentence}")
                if isinstance(answer, Failed):  # it is lost in a moment
                    self.words[answer.node] = answer.traceback
                elif isinstance(answer, kind) and answer.node in awaited:
                    awaited.discard(answer.node)
                    yield answer


def report(link: Link, mine: Hello) -> None:
    """Send a worker's hello, while the end user may be importing and read nothing: what is left then goes on
    from the heartbeat's thread."""
    link.send(END_USER, Report(link.me, mine).pack())
    with contextlib.suppress(Silence):
        link.flush(SEND_S)


def next_message(link: Link, timeout_s: float, clock: Clock) -> Message:
    """Receive the next message, whatever becomes of other workers.
    Raises Silence, or Lost if the end user is gone."""
    end = clock() + timeout_s
    while True:
        try:
            return Message.unpack(link.receive(max(0.0, end - clock())))
        except wire.Garbled:
            continue
        except Lost as lost:
            if link.end_user in lost.nodes:
                raise
