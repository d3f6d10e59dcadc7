"""Watches over what no Python code can interrupt: MPI_Init, which waits for every rank, dead ones too."""

import contextlib
import math
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..common.layers import END_USER
from .ancestry import DEAD, LAUNCHERS, STOPPED, children, end_by_signal, environment, has_ended, kill, stat
from .launch_agents import end_run
from .launcher_loss import shared_memory, tidy
from .ssh_keepalive import borne_s

WHILE = "while MPI started, which waits for every rank: start again"
LOOK_S = 0.1  # between looks at the other ranks
STOPPED_S = 4.0  # a rank that is stopped for so long ends the run
DEPUTY_S = 4.0  # after the end user's loss, node 1 acts for its watch; node 2 after twice that, and so on
LATER_S = 1.0  # a rank's own watch ends it so much later, for MPI may then end others without a word
ORDERED_WITH_S = 0.05  # mpirun's order to end reaches rank 0 no later than this after another rank's end
THROUGH_S = 0.3  # after another rank's end, for rank 0 to fail itself, and to say why
MISSING_S = 5.0  # until every rank of this machine must have been started
ENDS_S = 2.0  # for another launcher to be gone, if it ends all ranks itself: Ctrl-C
ORDERED_S = 3.0  # for it to end when it is told to: with a rank dead in MPI_Init it may hang
THROUGH = b"!"
ORDER = bytes([signal.SIGTERM])  # what Python writes when that signal comes, also while MPI starts


@contextmanager
def guarded(timeout_s: float, sentence: str) -> Iterator[None]:
    """End this process and the run if the body takes longer than `timeout_s`, or if a rank of this machine
    dies in it; print why, where there is a `sentence`: rank 0's.

    A child process does it: while MPI starts, no thread of this one runs. Enter it before MPI starts.
    """
    read, write = os.pipe()
    watch = Watch(read, timeout_s, sentence)
    child = os.fork()
    if child == 0:
        os.close(write)
        os.setsid()  # mpirun ends the processes of this one's group, and may hang after that
        try:
            if why := watch.failure():
                watch.end(why)
        finally:
            os._exit(0)
    os.close(read)
    before = signal.signal(signal.SIGTERM, end_by_signal)
    os.set_blocking(write, False)
    wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, before)
        with contextlib.suppress(OSError):  # the child has ended
            os.write(write, THROUGH)
        os.close(write)
        os.waitpid(child, 0)


class Watch:
    """Looks at the rank that makes it, and rank 0's at the other ranks of this machine.

    Rank 0 may die before it has a watch: the others' look at rank 0, and act for it if it is lost for long.
    """

    def __init__(self, done: int, timeout_s: float, sentence: str):
        """`done`: where the rank writes THROUGH."""
        self.done, self.timeout_s, self.sentence = done, timeout_s, sentence
        self.pid, self.launcher_pid = os.getpid(), os.getppid()
        self.is_local = stat(self.launcher_pid).name in LAUNCHERS
        self.neighbours = Neighbours(self.launcher_pid)

    def failure(self) -> str:
        """Wait. -> '' if the rank is through, else why the run cannot start."""
        begun = stopped_since = time.monotonic()
        watched = [self.done, 0] if borne_s() else [self.done]
        while (now := time.monotonic()) < begun + self.timeout_s:
            if self.sentence and (why := self.neighbours.lost()):
                return "" if self.ends_too() else why
            if not self.sentence and self.is_local and (why := self.neighbours.end_user_lost()):
                self.sentence = why
                return why
            others = self.neighbours.ends.values()
            ready = select.select([*watched, *others], [], [], min(LOOK_S, self.timeout_s))[0]
            if self.done in ready:
                answer = os.read(self.done, 64)
                if ORDER in answer:  # mpirun's, to all ranks
                    kill(self.pid)
                if ORDER in answer or THROUGH in answer or (not answer and has_ended(self.launcher_pid, 0.0)):
                    return ""
                if not answer:
                    return f"{named(END_USER)} died {WHILE}"
            if 0 in ready and not os.read(0, 4096):  # ssh hangs up: see ssh_keepalive.py
                break
            # With mpirun, which Ctrl-Z stops, all ranks are.
            if stat(self.pid).state not in STOPPED or stat(self.launcher_pid).state in STOPPED:
                stopped_since = now
            elif now > stopped_since + STOPPED_S + (0 if self.sentence else LATER_S):
                return f"{named(END_USER)} was stopped {WHILE}"
        return self.sentence or "late"

    def ends_too(self) -> bool:
        """Whether, after another rank's end, this one fails itself, or mpirun ends both."""
        begun = time.monotonic()
        while (left_s := begun + THROUGH_S - time.monotonic()) > 0:
            if select.select([self.done], [], [], left_s)[0]:
                answer = os.read(self.done, 64)
                if ORDER in answer and time.monotonic() < begun + ORDERED_WITH_S:
                    kill(self.pid)
                    return True
                if THROUGH in answer or ORDER in answer or not answer:
                    return THROUGH in answer
        return False

    def end(self, why: str) -> None:
        """End the rank; rank 0's watch prints why, and ends the run."""
        if not self.sentence:
            kill(self.pid)
        elif not self.is_local:
            kill(self.pid)
            end_run(why)
        elif self.neighbours.job or not has_ended(self.launcher_pid, ENDS_S):
            with contextlib.suppress(OSError):
                os.write(2, f"{why}\n".encode())
            ranks = self.neighbours.pids.values()
            memory = shared_memory(ranks)
            with contextlib.suppress(ProcessLookupError):  # it ends already
                os.kill(self.launcher_pid, signal.SIGTERM)
            if not has_ended(self.launcher_pid, ORDERED_S):
                for pid in (self.launcher_pid, *ranks):
                    kill(pid)
            tidy(memory)


def named(rank: int) -> str:
    return "the end user (node 0)" if rank == END_USER else f"node {rank}"


class Neighbours:
    """The ranks of this machine that mpirun itself started. Nobody else tells of one that dies now."""

    def __init__(self, launcher_pid: int):
        self.launcher_pid, self.job = launcher_pid, os.environ.get("PMIX_NAMESPACE", "")
        self.count = int(os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "0")) if self.job else 0
        self.are_all = self.count == int(os.environ.get("OMPI_COMM_WORLD_SIZE", "0"))  # ranks of the run
        self.pids: dict[int, int] = {}  # rank -> process
        self.ends: dict[int, int] = {}  # rank -> what can be read once it has ended
        self.stopped_since: dict[int, float] = {}  # rank -> when it was first seen so
        self.begun = time.monotonic()
        self.lost_since = math.inf  # the end user

    def end_user_lost(self) -> str:
        """Look once, as another rank's watch. -> '' if rank 0 is there, or its own watch may still act."""
        why, now = self.lost(), time.monotonic()
        if not why.startswith(named(END_USER)):
            self.lost_since = math.inf
            return ""
        self.lost_since = min(self.lost_since, now)
        return why if now > self.lost_since + DEPUTY_S * int(os.environ["PMIX_RANK"]) else ""

    def lost(self) -> str:
        """Look once. -> '' if all are there, else one sentence."""
        living = children(self.launcher_pid)
        for pid in living - set(self.pids.values()):
            words = environment(pid)
            if words.get("PMIX_NAMESPACE") == self.job:
                rank = int(words["PMIX_RANK"])
                self.pids[rank] = pid
                with contextlib.suppress(OSError):  # an old kernel, or it has ended: the next look tells
                    self.ends[rank] = os.pidfd_open(pid)
        # The kernel's list of children may lack some while others end.
        gone = [rank for rank, pid in self.pids.items() if pid not in living and stat(pid).state in DEAD]
        if gone and living:
            return f"{named(min(gone))} died {WHILE}"
        if stopped := self.stopped():
            return f"{named(min(stopped))} was stopped {WHILE}"
        if 0 < len(self.pids) < self.count and time.monotonic() > self.begun + MISSING_S:
            if self.are_all:  # it died before this watch could see it
                return f"{named(min(set(range(self.count)) - set(self.pids)))} died {WHILE}"
            return f"only {len(self.pids)} of {self.count} ranks came to start MPI: the others ended before"
        return ""

    def stopped(self) -> set[int]:
        """Return the ranks that are stopped for too long, without mpirun."""
        now, whole = time.monotonic(), stat(self.launcher_pid).state in STOPPED
        found = {rank for rank, pid in self.pids.items() if not whole and stat(pid).state in STOPPED}
        self.stopped_since = {rank: self.stopped_since.get(rank, now) for rank in found}
        return {rank for rank, since in self.stopped_since.items() if now > since + STOPPED_S}
