"""Measures the round trip and the rate between every two nodes: mpirun ...
python -m jarvis_mpi.testbed.link_rates

One pair at a time, so that none disturbs another's figures. Rank 0 prints the matrix as JSON; see doctor.py.
"""

import contextlib
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from ..common.errors import Unservable
from ..common.json_form import parsed
from ..protocol.link import Link, Lost, Silence
from ..protocol.notes import Note, SomeNote, key, read
from ..protocol.wire import Kind, Message
from ..record.links_file import Measured

SAMPLES = 9
BYTES = (1 << 14, 1 << 17, 1 << 20, 1 << 24)  # sent in turn, until one takes ENOUGH_S
ENOUGH_S = 0.1
NAN = float("nan")
PAIR_S = 30.0  # the longest for a pair

Clock = Callable[[], float]


@dataclass(frozen=True)
class MeasureTo(Note):
    """To a worker: measure the link between you and this node."""

    MARK = "measure"
    node: int = field(metadata=key(MARK))


@dataclass(frozen=True)
class Received(Note):
    """To the sender of this many bytes: they are here."""

    MARK = "here"
    size: int = field(metadata=key(MARK))


@dataclass(frozen=True)
class LinkMeasured(Note):
    """To the end user: the fields of a `Measured`."""

    MARK = "measured"
    measured: list[Any]


def measure(link: Link, clock: Clock) -> Iterator[Measured]:
    """Have every pair measured, as the end user, and yield each result."""
    for a, b in combinations(range(link.size), 2):
        try:
            if a == link.me:
                yield between(link, b, clock)
            else:
                link.send(a, MeasureTo(b).pack())
                yield answer_of(link, a, b, clock)
        except (Silence, Lost):
            yield Measured(a, b, NAN, NAN)
    for node in range(1, link.size):
        with contextlib.suppress(Lost):
            link.send(node, Message(Kind.GOODBYE).pack())
    with contextlib.suppress(Lost, Silence):
        link.flush(1.0)


def answer_of(link: Link, a: int, b: int, clock: Clock) -> Measured:
    """Wait for this pair's result; a late one is another pair's. Raises Silence or Lost."""
    end = clock() + 2 * PAIR_S
    while True:
        found = Measured(*await_note(link, max(0.0, end - clock()), clock, LinkMeasured).measured)
        if (found.a, found.b) == (a, b):
            return found


def serve(link: Link, clock: Clock) -> None:
    """Measure what the end user asks for, as a worker. Raises Silence or Lost."""
    while True:
        message = Message.unpack(link.receive(link.size**2 * PAIR_S))
        if message.kind is Kind.GOODBYE:
            return
        if message.kind is Kind.STEP:  # another node's bytes: acknowledge them
            link.send(message.step, Received(message.rows).pack())
        elif asked := read(message, MeasureTo):
            try:
                found = between(link, asked.node, clock)
            except (Silence, Lost):
                found = Measured(link.me, asked.node, NAN, NAN)
            link.send(0, LinkMeasured(list(found)).pack())


def between(link: Link, node: int, clock: Clock) -> Measured:
    rtts_s = [time_transfer(link, node, 0, clock) for _ in range(SAMPLES + 1)][1:]  # the first one connects
    round_trip_s, kbit_s = statistics.median(rtts_s), float("nan")
    for size in BYTES:
        took_s = time_transfer(link, node, size, clock)
        kbit_s = 8e-3 * size / max(took_s - round_trip_s, took_s / 5)
        if took_s - round_trip_s > ENOUGH_S:
            break
    return Measured(link.me, node, round_trip_s, kbit_s)


def time_transfer(link: Link, node: int, size: int, clock: Clock) -> float:
    """Return the seconds until `size` bytes have arrived and are acknowledged."""
    begun = clock()
    link.send(node, Message(Kind.STEP, step=link.me, rows=size, body=bytes(size)).pack())
    link.flush(PAIR_S)
    await_note(link, PAIR_S, clock, Received)
    return clock() - begun


def await_note(link: Link, timeout_s: float, clock: Clock, kind: type[SomeNote]) -> SomeNote:
    """Return the next note of this kind; others came too late. Raises Silence or Lost."""
    end = clock() + timeout_s
    while True:
        message = Message.unpack(link.receive(max(0.0, end - clock())))
        if message.kind is Kind.NOTE and (found := read(message, kind)):
            return found


def main() -> None:
    from ..net.launch_agents import StartPhase
    from ..net.ssh_keepalive import end_without_keepalive, report_phase

    end_without_keepalive()
    from ..net.mpi_link import MpiLink

    report_phase(StartPhase.IN_MPI_INIT)
    link = MpiLink(60.0, True)
    report_phase(StartPhase.JOINED)
    if link.me == 0:
        print(json.dumps([list(found) for found in measure(link, time.perf_counter)]), flush=True)
    else:
        serve(link, time.perf_counter)
    sys.stdout.flush()
    link.leave(0, not link.lost)


if __name__ == "__main__":
    main()


LINKS_S = 300.0


def measured_links(hosts: Sequence[str]) -> list[Measured]:
    """Measure the links between `hosts`, by mpirun. Raises Unservable."""
    with tempfile.NamedTemporaryFile("w", suffix=".hostfile") as file:
        file.write("".join(f"{host} slots=1\n" for host in hosts))
        file.flush()
        words = [
            "mpirun",
            "-hostfile",
            file.name,
            "-n",
            str(len(hosts)),
            sys.executable,
            "-m",
            "jarvis_mpi.testbed.link_rates",
        ]
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, timeout=LINKS_S, stdin=subprocess.DEVNULL
            )
            rows = parsed(done.stdout.splitlines()[-1], [[(int, float)]], "what it says")
            return [Measured(int(a), int(b), *figures) for a, b, *figures in rows]
        except OSError as error:
            raise Unservable(f"links: mpirun cannot be started: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise Unservable(f"links: mpirun did not end within {LINKS_S:g} s") from None
        except (ValueError, IndexError):
            last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
            raise Unservable(f"links: mpirun cannot start on all hosts: {last}") from None


def slow_links(hosts: Sequence[str], links: Sequence[Measured], slowest_kbit_s: float) -> Iterator[str]:
    for link in links:
        name = f"the link {hosts[link.a]} - {hosts[link.b]}"
        if math.isnan(link.kbit_s):
            yield f"{name} carries nothing: do firewalls let MPI's ports through?"
        elif link.kbit_s < slowest_kbit_s:
            yield (
                f"{name} carries {link.kbit_s / 1e3:.2f} Mbit/s: say --slowest-link-kbit-s "
                f"{link.kbit_s / 2:.0f} to the run"
            )
