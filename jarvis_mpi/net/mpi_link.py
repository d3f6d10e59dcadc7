"""Implements protocol.link over MPI. The only file that imports mpi4py.

Ranks probe and then sleep, because a rank that spins takes the core from one that computes. Every
communicator returns its errors: see failures.py.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import mpi4py

from ..common.boundary import reason
from ..common.errors import Unservable
from ..common.layers import END_USER
from ..protocol.link import Silence
from .blocked_read import BlockedReads
from .communicator import Membership
from .doorbell import Doorbell
from .failures import Failures, muted
from .inbox import Inbox
from .init_watchdog import guarded
from .launcher_loss import LauncherLoss, left_behind, other_ranks, shared_memory, tidy, tidy_later
from .outbox import Outbox
from .ssh_keepalive import home

mpi4py.rc.finalize = False  # MPI_Finalize may hang once a node is lost: see leave()

NAP_S = 50e-6
IMPATIENT_S = 0.1  # how long after a send the naps stay short
LONGEST_NAP_S = 10e-3  # while nothing can be expected yet
DIED = "a rank died while MPI started, or its host was lost or cannot reach the others; start again"
START_S = 180.0  # longest wait for all ranks in MPI_Init; over what a host may be silent (launch_agents)
STUCK_S = 2.5  # a rank whose MPI call takes so long shows no sign of life: it does no work
LATER_S = 30.0  # a rank that does not speak waits longer, so that it is not taken for the missing one
SHRINK_S = 10.0  # longest wait for the communicator to be shrunk; the text does not wait
WATCHED_S = 5.0  # for a watch to say who died while MPI started, and to end the run
LEAVE_S = 0.75  # longest wait for MPI_Finalize, which may hang where a rank dies in it
ORPHANED_S = 75.0  # longest silence of the end user that a worker bears once nobody watches over it
LOOK_S = 0.25  # between looks for dead ranks, of which nobody tells once mpirun is gone


class MpiLink:
    """A Link whose nodes are named by their ranks at launch. See link.Link."""

    def __init__(self, start_timeout_s: float, speaks: bool):
        """Raises Unservable if a rank died before all have made their communicators."""
        timeout_s = min(start_timeout_s, START_S)
        late = f"not all ranks had come within {timeout_s:g} s: {DIED}"
        with guarded(timeout_s if speaks else timeout_s + LATER_S, late if speaks else ""):
            self.MPI = MPI = library()
            self.vendor = MPI.get_vendor()[0]
            self.comm = MPI.COMM_WORLD
            self.comm.Set_errhandler(MPI.ERRORS_RETURN)
            self.me, self.size = self.comm.rank, self.comm.size
            try:
                with muted():
                    self.membership = Membership(MPI, self.comm)
            except MPI.Exception:
                time.sleep(WATCHED_S)
                raise Unservable(DIED) from None
        self.end_user = END_USER
        self.launcher, self.blocked = LauncherLoss(), BlockedReads()
        self.bell = Doorbell(self.me, self.size)
        # Of the last look for dead ranks: when, and whose bell was not there.
        self.looked_at, self.no_answer = 0.0, set[int]()
        self.failures = Failures(MPI, self.comm)
        self.outbox, self.inbox = Outbox(MPI, self.comm), Inbox(MPI, self.comm)
        self.shrinking_until = 0.0  # 0: no shrink is under way
        self.inside = threading.Lock()  # no second thread in MPI during a shrink
        self.last_beats: dict[int, tuple[Any, bytes]] = {}  # node -> request, buffer
        self.usual_wait_s = 0.0

    def send(self, node: int, data: bytes) -> None:
        if node in self.failures.known():
            raise self.failures.lost()
        try:
            with self.blocked:
                self.outbox.post(node, data)
                self.bell.ring(node)
                self.sweep()
        except self.MPI.Exception as error:
            raise self.failures.translated(error) from None

    def flush(self, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        try:
            while True:
                with self.blocked:
                    if not self.sweep():
                        return
                if time.monotonic() > end:
                    raise Silence(f"{len(self.outbox)} messages could not be sent in {timeout_s:g} s")
                time.sleep(NAP_S)
        except self.MPI.Exception as error:
            raise self.failures.translated(error) from None

    def sweep(self) -> int:
        """Forget the sends that are done. -> how many are left. Raises Lost, once, if a receiver died."""
        if self.outbox and self.outbox.sweep(self.failures.known()) - self.failures.reported:
            raise self.failures.lost()
        return len(self.outbox)

    def sending(self) -> bool:
        return bool(self.outbox)

    def beat(self, node: int, data: bytes) -> None:
        if self.blocked.blocked_s() > STUCK_S or not self.inside.acquire(blocking=False):
            return
        try:
            last, _ = self.last_beats.get(node, (self.MPI.REQUEST_NULL, b""))
            if last.Test():
                request = self.comm.Isend([data, self.MPI.BYTE], node)
                self.last_beats[node] = request, data
                request.Test()
        except self.MPI.Exception:
            pass  # the main thread meets the same error, and acts
        finally:
            self.inside.release()

    def receive(self, timeout_s: float) -> bytearray:
        begun = time.monotonic()
        try:
            while (data := self._look()) is None:
                if self.shrinking_until:
                    self._continue_shrinking()
                if self.orphaned:
                    self._look_for_the_dead()
                self._nap(begun, timeout_s)
            self.usual_wait_s = time.monotonic() - begun
            return data
        except self.MPI.Exception as error:
            self.failures.acknowledge(error)
            raise self.failures.translated(error) from None

    def _look(self) -> bytearray | None:
        """Let MPI work. -> the next message, if there is one."""
        with self.blocked:
            if (data := self.inbox.take()) is None:
                self.sweep()
            return data

    @property
    def sender(self) -> int:
        return self.inbox.sender

    @property
    def lost(self) -> set[int]:
        """The nodes that a Lost has named."""
        return self.failures.reported

    @property
    def nodes(self) -> Sequence[int]:
        return self.membership.nodes

    @property
    def orphaned(self) -> bool:
        return self.launcher.happened.is_set() or home.lost.is_set()

    def _look_for_the_dead(self) -> None:
        """Raise Lost for ranks of this host whose process has ended, seen twice: MPI may still have messages
        of theirs."""
        now = time.monotonic()
        if now - self.looked_at > LOOK_S:
            others = set(range(self.size)) - {self.me} - self.failures.known()
            gone = {node for node in others if not self.bell.ring(node)}
            found, self.no_answer, self.looked_at = gone & self.no_answer, gone, now
            if found:
                self.failures.found |= found
                raise self.failures.lost()

    def shrink(self, attempt: int, members: Sequence[int], certain: bool) -> None:
        with self.inside:
            begun = self.membership.begin(attempt, members, certain)
        self.shrinking_until = time.monotonic() + SHRINK_S if begun else 0.0

    def _continue_shrinking(self) -> None:
        with self.inside:
            if self.membership.poll() is not None:
                self.shrinking_until = 0.0
            elif time.monotonic() > self.shrinking_until:
                self.membership.give_up()
                self.shrinking_until = 0.0

    def _nap(self, begun: float, timeout_s: float) -> None:
        """Sleep: the longer, the more is left of the usual wait.

        A chain's ranks wait about equally long for every token: with short naps from the start, eight idle
        ranks would wake so often that the one that computes runs at half its speed.
        """
        waited = time.monotonic() - begun
        if self.orphaned:
            timeout_s = min(timeout_s, ORPHANED_S)
        if waited > timeout_s:
            raise Silence(f"nothing arrived in {timeout_s:g} s")
        if self.inbox:  # no bell rings for the rest of a message
            time.sleep(min(max(waited / 20, NAP_S), LONGEST_NAP_S))
            return
        # It advances only while we look.
        if self.outbox and time.monotonic() - self.outbox.posted_at < IMPATIENT_S:
            time.sleep(NAP_S)
            return
        left = LONGEST_NAP_S if self.bell.all_on_host else 0.9 * self.usual_wait_s - waited
        self.bell.wait(min(max(left / 2, NAP_S), LONGEST_NAP_S))

    def leave(self, status: int, together: bool) -> NoReturn:
        """End this process; `together`: every other rank ends now, too.

        Only then call MPI_Finalize, which waits for all and which no Python code can interrupt. Not without
        mpirun, which takes part in it. A rank that dies meanwhile is no matter any more.
        """
        if self.me == self.end_user:
            paths = left_behind(shared_memory()) if together else []
            tidy_later(os.getpid(), os.getppid(), other_ranks(), paths)
        if self.orphaned:
            tidy(shared_memory())
        elif together and not self.lost:
            signal.setitimer(signal.ITIMER_REAL, LEAVE_S)
            with muted(), contextlib.suppress(self.MPI.Exception):
                self.MPI.Finalize()
        os._exit(status)


def library() -> Any:
    """Import mpi4py's MPI, which starts it. Raises Unservable where no MPI library can be loaded."""
    os.environ.pop("MPI4PY_RC_INITIALIZE", None)  # which may say that it is not to start it
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError, ValueError) as error:
        named = ", ".join(sorted(name for name in os.environ if name.startswith("MPI4PY_")))
        advice = f"unset {named}" if named else "make setup installs one beside it"
        raise Unservable(f"mpi4py cannot load an MPI library ({reason(error)}): {advice}") from None
    return MPI
