"""The start: nodes report, are compared, get their blocks, load them. Nobody waits without a deadline."""

import contextlib
import importlib.metadata
import os
import platform
import resource
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from . import __version__, wire
from .blocks import Placement
from .crew import END_USER
from .enduser import failure_of
from .link import Link, Lost, Silence, Unservable
from .wire import Kind, Message, note, read_note

Clock = Callable[[], float]


@dataclass(frozen=True)
class Hello:
    """What a node says of itself."""

    node: int
    host: str
    cores: int
    machine: str  # the same for all ranks of one machine: Pis fresh from the card all have one host name
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
        cores=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
        free_bytes=psutil.virtual_memory().available,
        versions={"jarvis_mpi": __version__, "wire": str(wire.VERSION), **versions},
        fingerprint=fingerprint,
    )


def machine() -> str:
    """Told apart by the kernel's boot id where there is one."""
    boot_id = Path("/proc/sys/kernel/random/boot_id")
    return boot_id.read_text().strip() if boot_id.exists() else platform.node()


def gather(link: Link, mine: Hello, timeout_s: float, clock: Clock) -> dict[int, Hello]:
    """Every node's hello, in the order of nodes. Raises Unservable if one is missing, fails or does not fit."""
    there = {END_USER: mine}
    for answer in answers(link, set(range(1, link.size)), timeout_s, clock, "did not report"):
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
    return dict(sorted(there.items()))


def free_bytes(there: Mapping[int, Hello]) -> list[float]:
    """What each worker may use of its host's memory, shared with the host's other ranks."""
    ranks = Counter(hello.machine for hello in there.values())
    return [hello.free_bytes / ranks[hello.machine] for node, hello in there.items() if node != END_USER]


def threads_for(there: Mapping[int, Hello], wanted: int) -> dict[int, int]:
    """Compute threads of each node: as wanted, or the host's cores shared by its ranks."""
    ranks = Counter(hello.machine for hello in there.values())
    return {node: wanted or max(1, hello.cores // ranks[hello.machine]) for node, hello in there.items()}


def hand_out(
    link: Link, placement: Placement, threads: Mapping[int, int], dtype: str, pieces: Sequence[int]
) -> None:
    """Tell every worker what it holds, and in pieces of how many rows the prompt will come."""
    for node in range(1, link.size):
        blocks = [[block.start, block.stop] for block in placement[node]]
        link.send(node, note(blocks=blocks, threads=threads[node], dtype=dtype, pieces=pieces).pack())


def await_ready(link: Link, timeout_s: float, clock: Clock) -> dict[int, float]:
    """Seconds that each worker took to load its block. Raises Unservable if one fails."""
    everyone = set(range(1, link.size))
    return {
        answer["node"]: answer["loaded_s"]
        for answer in answers(link, everyone, timeout_s, clock, "did not load its block")
    }


def answers(link: Link, awaited: set[int], timeout_s: float, clock: Clock, failing: str):
    """The notes of all `awaited` nodes as they come. Raises Unservable naming the nodes that send none in time."""
    end = clock() + timeout_s
    while awaited:
        try:
            message = Message.unpack(link.receive(max(0.0, end - clock())))
        except Silence:
            late = ", ".join(map(str, sorted(awaited)))
            raise Unservable(f"node {late} {failing} within {timeout_s:g} s (--start-timeout-s)") from None
        except Lost as lost:
            if awaited & set(lost.nodes):
                raise Unservable(last_words(link) or f"{lost} during the start") from None
            continue
        except ValueError as error:
            raise Unservable(f"a node has another version of jarvis_mpi: {error}") from None
        answer = read_note(message)
        if "failed" in answer:
            raise Unservable(failure_of(message))
        awaited.discard(answer["node"])
        yield answer


def last_words(link: Link) -> str:
    """Why a node that is gone gave up, if it could still say so."""
    try:
        while True:
            message = Message.unpack(link.receive(0.0))
            if "failed" in read_note(message):
                return failure_of(message)
    except (Silence, Lost):
        return ""


def report(link: Link, mine: Hello) -> None:
    """A worker says hello."""
    link.send(END_USER, note(node=link.me, hello=asdict(mine)).pack())
    link.flush(60.0)


def receive_plan(link: Link, timeout_s: float) -> dict[str, Any] | None:
    """A worker's blocks, threads and dtype; None if the end user has called the run off.

    Raises Silence if it says nothing, Lost if it is gone.
    """
    message = Message.unpack(link.receive(timeout_s))
    if message.kind is Kind.GOODBYE:
        return None
    plan = read_note(message)
    plan["blocks"] = [range(first, end) for first, end in plan["blocks"]]
    return plan


def ready(link: Link, loaded_s: float) -> None:
    link.send(END_USER, note(node=link.me, loaded_s=loaded_s).pack())


def part(link: Link, timeout_s: float, clock: Clock) -> dict[int, int]:
    """The end user ends the run. -> each node's peak of resident memory in bytes, of those that say farewell.

    Only if all do, all are told that they part together: see MpiLink.leave.
    """
    goodbye(link, b"", timeout_s)
    peaks = {END_USER: peak_bytes()}
    awaited = set(range(1, link.size))
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
    goodbye(link, wire.TOGETHER if len(peaks) == link.size else wire.APART, timeout_s)
    return dict(sorted(peaks.items()))


def goodbye(link: Link, body: bytes, timeout_s: float) -> None:
    for node in range(1, link.size):
        with contextlib.suppress(Lost):
            link.send(node, Message(Kind.GOODBYE, body=body).pack())
    with contextlib.suppress(Silence, Lost):
        link.flush(timeout_s)


def farewell(link: Link, timeout_s: float) -> bool:
    """A worker's last words, after the end user's goodbye. -> whether all part together."""
    try:
        link.send(END_USER, note(node=link.me, peak_bytes=peak_bytes()).pack())
        # Longer than the end user waits for all farewells: who leaves before its answer would be missed.
        return await_goodbye(link, 2 * timeout_s + 1) == wire.TOGETHER
    except (Silence, Lost):
        return False


def await_goodbye(link: Link, timeout_s: float) -> bytes:
    """What comes with the next goodbye; other messages no longer matter. Raises Silence or Lost."""
    while True:
        message = Message.unpack(link.receive(timeout_s))
        if message.kind is Kind.GOODBYE:
            return bytes(message.body)


def peak_bytes() -> int:
    """This process's largest resident set so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def fail(link: Link, sentence: str, timeout_s: float) -> bool:
    """A worker tells the end user why it gives up. -> whether all part together."""
    try:
        link.send(END_USER, note(node=link.me, host=platform.node(), failed=sentence).pack())
        await_goodbye(link, timeout_s)
    except (Silence, Lost):
        return False
    return farewell(link, timeout_s)
