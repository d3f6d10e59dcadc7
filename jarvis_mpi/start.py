"""The start and the end of a run: nodes report, are compared, get their blocks, load them; later all part.

Nobody waits without a deadline, and who is missing is done without.
"""

import contextlib
import importlib.metadata
import os
import platform
import resource
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from . import __version__, wire
from .blocks import Placement
from .crew import END_USER, Block, Sign
from .link import Link, Lost, Silence, Unservable
from .watch import Pace
from .wire import Kind, Message, note, read_note

Clock = Callable[[], float]

STARTING_SILENCE_S = 30.0  # imports and the reading of weights may hold a beat up for seconds


@dataclass(frozen=True)
class Hello:
    """What a node says of itself."""

    node: int
    host: str
    cores: int
    machine: str  # the same for all ranks of one machine: Pis fresh from the card all have one host name
    pid: int
    started: float  # when the process did, by its own machine's clock: pids are used again
    free_bytes: int
    versions: dict[str, str]
    fingerprint: str  # of the model's files there


def hello(me: int, fingerprint: str) -> Hello:
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
    )


def machine() -> str:
    """Told apart by the kernel's boot id where there is one."""
    boot_id = Path("/proc/sys/kernel/random/boot_id")
    return boot_id.read_text().strip() if boot_id.exists() else platform.node()


class Roll:
    """The nodes that are called at the start, and those that are missing: node -> why."""

    def __init__(self, link: Link, timeout_s: float, clock: Clock):
        self.link, self.timeout_s, self.clock = link, timeout_s, clock
        self.missing: dict[int, Sign] = {}
        self.words: dict[int, str] = {}  # what they said last

    def gather(self, mine: Hello) -> dict[int, Hello]:
        """The hellos of all that are there, in the order of nodes. Raises Unservable where one does not fit."""
        there = {END_USER: mine}
        for answer in self.answers(range(1, self.link.size)):
            there[answer["node"]] = Hello(**answer["hello"])
        for node, other in sorted(there.items()):
            for name, version in mine.versions.items():
                if other.versions.get(name) != version:
                    raise Unservable(
                        f"node {node} ({other.host}) has {name} {other.versions.get(name)}, the end user {version}:"
                        " install the same versions on every host"
                    )
            if other.fingerprint != mine.fingerprint:
                raise Unservable(
                    f"node {node} ({other.host}) has other model files than the end user (fingerprint"
                    f" {other.fingerprint}, not {mine.fingerprint}): copy the same folder to every host"
                )
        if len(there) == 1:
            raise Unservable(f"no worker reported within {self.timeout_s:g} s (--start-timeout-s)")
        return dict(sorted(there.items()))

    def await_ready(self, nodes: Iterable[int]) -> dict[int, dict[str, Any]]:
        """What each worker says when it has loaded its block: loaded_s, pace."""
        return {answer["node"]: answer for answer in self.answers(nodes)}

    def answers(self, nodes: Iterable[int]) -> Iterator[dict[str, Any]]:
        """The notes of `nodes` as they come, but of those that are lost, silent or too late.

        Raises Unservable if one says why it gives up.
        """
        awaited = set(nodes) - {END_USER} - self.missing.keys()
        end = self.clock() + self.timeout_s
        heard_at = dict.fromkeys(awaited, self.clock())
        while awaited:
            silent_at = min(heard_at[node] for node in awaited) + STARTING_SILENCE_S
            try:
                message = Message.unpack(self.link.receive(max(0.0, min(end, silent_at) - self.clock())))
            except Silence:
                late = {
                    node for node in awaited if self.clock() >= min(end, heard_at[node] + STARTING_SILENCE_S)
                }
                self.missing.update(dict.fromkeys(late, Sign.LATE))
                awaited -= late
            except Lost as lost:
                self.missing.update(dict.fromkeys(lost.nodes, Sign.LOST))
                awaited -= set(lost.nodes)
            except ValueError as error:
                raise Unservable(f"a node has another version of jarvis_mpi: {error}") from None
            else:
                if message.kind is Kind.BEAT:
                    heard_at[wire.Beat.of(message).node] = self.clock()
                    continue
                answer = read_note(message)
                if "gives_up" in answer:
                    raise Unservable(f"node {answer['node']} ({answer['host']}): {answer['gives_up']}")
                if "failed" in answer:  # it is lost in a moment
                    self.words[answer["node"]] = answer["failed"]
                elif answer["node"] in awaited:
                    awaited.discard(answer["node"])
                    yield answer


def free_bytes(there: Mapping[int, Hello]) -> dict[int, float]:
    """What each node may use of its host's memory, shared with the host's other ranks."""
    ranks = Counter(hello.machine for hello in there.values())
    return {node: hello.free_bytes / ranks[hello.machine] for node, hello in there.items()}


def threads_for(there: Mapping[int, Hello], wanted: int) -> dict[int, int]:
    """Compute threads of each node: as wanted, or the host's cores shared by its ranks."""
    ranks = Counter(hello.machine for hello in there.values())
    return {node: wanted or max(1, hello.cores // ranks[hello.machine]) for node, hello in there.items()}


@dataclass(frozen=True)
class Plan:
    """What a worker is to hold, and how it is to run it."""

    blocks: list[Block]
    copies: list[Block]
    threads: int
    dtype: str
    pieces: list[int]  # of how many rows the prompt comes

    def note(self) -> Message:
        def spans(held):
            return [[block.start, block.stop] for block in held]

        return note(**{**asdict(self), "blocks": spans(self.blocks), "copies": spans(self.copies)})

    @classmethod
    def of(cls, said: dict[str, Any]) -> "Plan":
        spans = {name: [range(*span) for span in said[name]] for name in ("blocks", "copies")}
        return cls(**{**said, **spans})


def hand_out(
    link: Link, placement: Placement, copies: Mapping[Block, Sequence[int]], threads: Mapping[int, int],
    dtype: str, pieces: list[int],
) -> None:  # fmt: skip
    """Tell every worker that is there what it holds."""
    for node in threads.keys() - {END_USER}:
        copied = [block for block, nodes in copies.items() if node in nodes]
        plan = Plan(list(placement[node]), copied, threads[node], dtype, pieces)
        with contextlib.suppress(Lost):
            link.send(node, plan.note().pack())


# -- a worker's side


def report(link: Link, mine: Hello) -> None:
    """A worker says hello."""
    link.send(END_USER, note(node=link.me, hello=asdict(mine)).pack())
    link.flush(60.0)


def next_message(link: Link, timeout_s: float, clock: Clock) -> Message:
    """The next one, whatever becomes of other workers. Raises Silence, or Lost if the end user is gone."""
    end = clock() + timeout_s
    while True:
        try:
            return Message.unpack(link.receive(max(0.0, end - clock())))
        except Lost as lost:
            if END_USER in lost.nodes:
                raise


def receive_plan(link: Link, timeout_s: float, clock: Clock) -> Plan | None:
    """A worker's plan; None if the end user has called the run off. Raises Silence or Lost."""
    message = next_message(link, timeout_s, clock)
    return None if message.kind is Kind.GOODBYE else Plan.of(read_note(message))


def ready(link: Link, loaded_s: float, pace: Pace) -> None:
    link.send(END_USER, note(node=link.me, loaded_s=loaded_s, pace=list(pace)).pack())


def farewell(link: Link, timeout_s: float, clock: Clock) -> bool:
    """A worker's last words, after the end user's goodbye. -> whether all part together."""
    try:
        link.send(END_USER, note(node=link.me, peak_bytes=peak_bytes()).pack())
        # Longer than the end user waits for all farewells: who leaves before its answer would be missed.
        return await_goodbye(link, 2 * timeout_s + 1, clock) == wire.TOGETHER
    except (Silence, Lost):
        return False


def await_goodbye(link: Link, timeout_s: float, clock: Clock) -> bytes:
    """What comes with the next goodbye; other messages no longer matter. Raises Silence or Lost."""
    while True:
        message = next_message(link, timeout_s, clock)
        if message.kind is Kind.GOODBYE:
            return bytes(message.body)


def peak_bytes() -> int:
    """This process's largest resident set so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def give_up(link: Link, sentence: str, timeout_s: float, clock: Clock) -> bool:
    """A worker tells the end user why it cannot take part. -> whether all part together."""
    try:
        link.send(END_USER, note(node=link.me, host=platform.node(), gives_up=sentence).pack())
        await_goodbye(link, timeout_s, clock)
    except (Silence, Lost):
        return False
    return farewell(link, timeout_s, clock)


def die(link: Link, traceback: str) -> None:
    """A worker's end after an exception that nobody foresaw: in a way that MPI notices.

    Other exit statuses than a signal's are not told to ranks that share memory (Open MPI 5.0).
    """
    with contextlib.suppress(Exception):
        link.send(END_USER, note(node=link.me, failed=traceback).pack())
        link.flush(1.0)
    os.kill(os.getpid(), signal.SIGKILL)


# -- the end


def part(link: Link, silent: Iterable[int], timeout_s: float, clock: Clock) -> dict[int, int]:
    """The end user ends the run. -> each node's peak of resident memory in bytes, of those that say farewell.

    Nobody waits for the `silent`. Those that said it wait for `release`.
    """
    goodbye(link, b"", 1.0)
    peaks = {END_USER: peak_bytes()}
    awaited = set(range(1, link.size)) - set(silent)
    end = clock() + timeout_s
    while awaited:
        try:
            message = Message.unpack(link.receive(max(0.0, end - clock())))
        except Silence:
            break
        except Lost as lost:
            awaited -= set(lost.nodes)
            continue
        answer = read_note(message) if message.kind is Kind.NOTE else {}
        if "peak_bytes" in answer:  # else: said before it heard our goodbye
            peaks[answer["node"]] = answer["peak_bytes"]
            awaited.discard(answer["node"])
    return dict(sorted(peaks.items()))


def release(link: Link, together: bool) -> None:
    """The very last: mpirun may take the job for ended, and stop listening, once the workers have left.

    Only if all have said farewell they part `together`: see MpiLink.leave.
    """
    goodbye(link, wire.TOGETHER if together else wire.APART, 1.0)


def goodbye(link: Link, body: bytes, timeout_s: float) -> None:
    for node in range(1, link.size):
        with contextlib.suppress(Lost):
            link.send(node, Message(Kind.GOODBYE, body=body).pack())
    with contextlib.suppress(Silence, Lost):
        link.flush(timeout_s)


def end_processes(there: Mapping[int, Hello], silent: Iterable[int]) -> None:
    """End what is left of silent nodes on this machine: a stopped process cannot leave, and mpirun waits for it."""
    for node in silent:
        if node in there and there[node].machine == there[END_USER].machine:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(there[node].pid)
                if abs(process.create_time() - there[node].started) < 0.1:
                    process.kill()
