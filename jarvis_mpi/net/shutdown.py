"""Ends a run, for all ranks or for one alone: nothing is left running, and no rank waits for ever."""

import contextlib
import os
import platform
import resource
import signal
import sys
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import NoReturn

import psutil

from ..common.process_identity import machine
from ..protocol import wire
from ..protocol.link import Link, Lost, Silence
from ..protocol.notes import Failed, Farewell, GivesUp, read
from ..protocol.wire import Kind, Message
from .handshake import Clock, Hello, next_message
from .launch_agents import HOST


def part(link: Link, silent: Iterable[int], timeout_s: float, clock: Clock) -> dict[int, int]:
    """End the run, as the end user.
    -> each node's peak of resident memory in bytes, of those that say farewell.

    Nobody waits for the `silent`. Those that said it wait for `release`.
    """
    lost = goodbye(link, b"", 1.0)
    peaks = {link.me: peak_bytes()}
    awaited = set(range(link.size)) - {link.me} - set(silent) - lost
    end = clock() + timeout_s
    while awaited:
        try:
            message = Message.unpack(link.receive(max(0.0, end - clock())))
            answer = read(message, Farewell) if message.kind is Kind.NOTE else None
        except Silence:
            break
        except Lost as more:
            awaited -= set(more.nodes)
            continue
        except wire.Garbled:
            continue
        if answer:  # else: said before it heard our goodbye
            peaks[answer.node] = answer.peak_bytes
            awaited.discard(answer.node)
    return dict(sorted(peaks.items()))


def release(link: Link, together: bool) -> None:
    """Let the workers leave, last of all: mpirun may then take the job for ended, and stop listening.

    Only if all have said farewell, and none has died since, they part `together`: see MpiLink.leave.
    """
    goodbye(link, wire.TOGETHER if together and not has_lost(link) else wire.APART, 1.0)


def has_lost(link: Link) -> bool:
    """Whether the link knows of a death of which it has not told."""
    for _ in range(4 * link.size):  # messages that came late
        try:
            link.receive(0.0)
        except Silence:
            return False
        except Lost:
            return True
    return False


def goodbye(link: Link, body: bytes, timeout_s: float) -> set[int]:
    """Say goodbye to all. -> the nodes that are found to be lost: the link names each only once."""
    message, lost = Message(Kind.GOODBYE, body=body).pack(), set[int]()
    for speak in (
        *(partial(link.send, node, message) for node in range(link.size) if node != link.me),
        partial(link.flush, timeout_s),
    ):
        try:
            speak()
        except Lost as more:
            lost |= set(more.nodes)
        except Silence:
            pass
    return lost


def end_processes(hellos: Mapping[int, Hello], silent: Collection[int]) -> None:
    """End what is left of silent nodes on this machine: a stopped process cannot leave, and mpirun waits for
    it."""
    for node in silent:
        if node in hellos and hellos[node].machine == machine():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(hellos[node].pid)
                if abs(process.create_time() - hellos[node].started) < 0.1:
                    process.kill()
    end_stand_ins(silent)


def end_stand_ins(nodes: Collection[int]) -> None:
    """End what stands here for ranks on other hosts (launch_agents.rank and its ssh): mpirun waits for it,
    too."""
    ours = {(os.environ.get("PMIX_NAMESPACE"), str(node)) for node in nodes}
    for process in psutil.process_iter() if ours else ():
        with contextlib.suppress(psutil.Error):
            environment = process.environ()
            if (
                HOST in environment
                and (environment.get("PMIX_NAMESPACE"), environment.get("PMIX_RANK")) in ours
            ):
                process.kill()


# -- a worker's side


def peak_bytes() -> int:
    """Return this process's largest resident set so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def farewell(link: Link, timeout_s: float, clock: Clock) -> bool:
    """Say a worker's last words, after the end user's goodbye. -> whether all leave together."""
    try:
        link.send(link.end_user, Farewell(link.me, peak_bytes()).pack())
        # Longer than the end user waits for all farewells: who leaves before its answer would be missed.
        return await_goodbye(link, 2 * timeout_s + 1, clock) == wire.TOGETHER
    except (Silence, Lost):
        return False


def await_goodbye(link: Link, timeout_s: float, clock: Clock) -> bytes:
    """Return the body of the next goodbye; other messages no longer matter. Raises Silence or Lost."""
    while True:
        message = next_message(link, timeout_s, clock)
        if message.kind is Kind.GOODBYE:
            return bytes(message.body)


def give_up(link: Link, sentence: str, patience_s: float, timeout_s: float, clock: Clock) -> bool:
    """Tell the end user why this worker cannot take part. -> whether all leave together.

    `patience_s`: until it reads that; it may be importing or converting a model. Who leaves before is lost
    without a reason.
    """
    try:
        link.send(link.end_user, GivesUp(link.me, platform.node(), sentence).pack())
        await_goodbye(link, patience_s, clock)
    except (Silence, Lost):
        return False
    return farewell(link, timeout_s, clock)


def die(link: Link, traceback: str, by_signal: bool) -> NoReturn:
    """End a worker after an unforeseen exception, so that the others survive and, if they can, notice.

    `by_signal`: Open MPI 5.0 tells ranks that share memory of no other end. MPICH's launcher ends the run for
    a signal, but not for a rank that just leaves: its silence shows.
    """
    with contextlib.suppress(Exception):
        if traceback:
            link.send(link.end_user, Failed(link.me, traceback).pack())
            link.flush(1.0)
    if by_signal:
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(0)
