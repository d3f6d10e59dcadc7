"""A Link over MPI, the only file that imports mpi4py.

Ranks probe and then sleep, because a rank that spins takes the core from one that computes.
Failures are told by the error's class (ULFM); every communicator returns its errors.
"""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NoReturn

import mpi4py

from ..common.errors import Unservable
from ..common.layers import END_USER
from ..protocol.link import Lost, Silence
from .communicator import Membership
from .doorbell import Doorbell
from .init_watchdog import guarded

mpi4py.rc.finalize = False  # MPI_Finalize may hang once a node is lost: see leave()

NAP_S = 50e-6
IMPATIENT_S = 0.1  # for so long after a send its progress is looked after closely
LONGEST_NAP_S = 10e-3  # while nothing can be expected yet
DIED = "a rank died while MPI started, or its host was lost or cannot reach the others; start again"
START_S = (
    180.0  # longest wait for all ranks in MPI_Init; longer than a silent host is borne (launch.silence_s)
)
LATER_S = 30.0  # one that does not speak waits longer, so that it is not taken for the one that is missing
SHRINK_S = 10.0  # longest wait for the communicator to be shrunk; the text does not wait
LEAVE_S = 5.0  # longest wait for MPI_Finalize


class MpiLink:
    """See link.Link. A node's name is its rank at launch."""

    def __init__(self, start_timeout_s: float, speaks: bool):
        timeout_s = min(start_timeout_s, START_S)
        late = f"not all ranks had come within {timeout_s:g} s: {DIED}"
        with guarded(timeout_s if speaks else timeout_s + LATER_S, late if speaks else ""):
            from mpi4py import MPI

            self.start(MPI)

    def start(self, MPI: Any) -> None:
        """Raises Unservable if a rank died before all have made their communicators."""
        self.MPI, self.vendor = MPI, MPI.get_vendor()[0]
        # An MPI without ULFM has no such classes: mpi4py then says ERR_UNKNOWN, which tells of no process.
        self.failed = {MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED} - {MPI.ERR_UNKNOWN}
        self.comm = MPI.COMM_WORLD
        self.comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.me, self.size, self.everyone = self.comm.rank, self.comm.size, self.comm.group
        self.bell = Doorbell(self.me, self.size)
        self.status = MPI.Status()
        self.posted: deque = deque()  # (receiver, request, its buffer): the buffer must outlive the request
        self.put_aside: list[tuple] = []  # of those, what was on its way to processes that died
        self.posted_at = 0.0
        self.incoming: list[tuple] = []  # (sender, request, its buffer): messages that have arrived in part
        try:
            self.membership = Membership(MPI, self.comm)
        except MPI.Exception:
            raise Unservable(DIED) from None
        self.shrinking_until = 0.0  # 0: nothing is going on
        self.inside = threading.Lock()  # no second thread in MPI during a shrink
        self.last_beat = MPI.REQUEST_NULL
        self.last_beat_data = b""
        self.lost: set[int] = set()
        self.usual_wait_s = 0.0

    def send(self, node: int, data: bytes) -> None:
        if node in self.dead():
            raise self.all_lost()
        try:
            self.posted.append((node, self.comm.Isend([data, self.MPI.BYTE], node), data))
            self.posted_at = time.monotonic()
            self.bell.ring(node)
            self.sweep()
        except self.MPI.Exception as error:
            raise self.translated(error) from None

    def flush(self, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        try:
            while self.sweep():
                if time.monotonic() > end:
                    raise Silence(f"{len(self.posted)} messages could not be sent in {timeout_s:g} s")
                time.sleep(NAP_S)
        except self.MPI.Exception as error:
            raise self.translated(error) from None

    def sweep(self) -> int:
        """Forget the sends that are done; how many are left: one to a stopped process stays for long. Raises Lost, once, if a receiver died.

        Only what is complete is tested, and what is on its way to a process that died is put aside: Open MPI would free it, and
        end this process when the connection breaks, which a host without power leaves open for minutes ("Send error after request
        freed", 5.0.11).
        """
        dead, news = self.dead() if self.posted else set(), False
        for _ in range(len(self.posted)):
            node, request, data = self.posted.popleft()
            if node in dead:
                self.put_aside.append((request, data))
                news = news or node not in self.lost
            elif not (request.Get_status() and request.Test()):
                self.posted.append((node, request, data))
        if news:
            raise self.all_lost()
        return len(self.posted)

    def dead(self) -> set[int]:
        """The nodes whose failure MPI knows of."""
        if not self.failed:
            return set()
        group = self.comm.Get_failed()
        nodes = self.MPI.Group.Translate_ranks(group, list(range(group.size)), self.everyone)
        group.Free()
        return set(nodes)

    def sending(self) -> bool:
        return bool(self.posted)

    def beat(self, data: bytes) -> None:
        if not self.inside.acquire(blocking=False):
            return
        try:
            if self.last_beat.Test():
                self.last_beat = self.comm.Isend([data, self.MPI.BYTE], END_USER)
                self.last_beat_data = data
                self.last_beat.Test()
        except self.MPI.Exception:
            pass  # the main thread meets the same, and acts
        finally:
            self.inside.release()

    def receive(self, timeout_s: float) -> bytearray:
        begun = time.monotonic()
        try:
            while (data := self.take()) is None:
                if self.posted:
                    self.sweep()
                if self.shrinking_until:
                    self.go_on_shrinking()
                self.nap(begun, timeout_s)
            self.usual_wait_s = time.monotonic() - begun
            return data
        except self.MPI.Exception as error:
            if error.Get_error_class() in self.failed:
                self.comm.Ack_failed()  # so that the others can be heard again
            raise self.translated(error) from None

    def take(self) -> bytearray | None:
        """The next message that is whole; those of one sender in their order.

        The rest of a large message may never come, if its sender's host lost power: others are let in meanwhile.
        """
        if self.look() or self.look():  # what one look lets in, only the next one finds
            data = bytearray(self.status.Get_count(self.MPI.BYTE))
            request = self.comm.Irecv([data, self.MPI.BYTE], self.status.source, self.status.tag)
            self.incoming.append((self.status.source, request, data))
        waits = set()
        for index, (source, request, data) in enumerate(self.incoming):
            if source in waits:
                continue
            try:
                whole = request.Test()
            except self.MPI.Exception:  # its sender died
                del self.incoming[index]
                raise
            if whole:
                del self.incoming[index]
                return data
            waits.add(source)
        return None

    @property
    def nodes(self) -> Sequence[int]:
        return self.membership.nodes

    def shrink(self, attempt: int, members: Sequence[int], certain: bool) -> None:
        with self.inside:
            begun = self.membership.begin(attempt, members, certain)
        self.shrinking_until = time.monotonic() + SHRINK_S if begun else 0.0

    def go_on_shrinking(self) -> None:
        with self.inside:
            if self.membership.poll() is not None:
                self.shrinking_until = 0.0
            elif time.monotonic() > self.shrinking_until:
                self.membership.give_up()
                self.shrinking_until = 0.0

    def look(self) -> bool:
        return self.comm.Iprobe(self.MPI.ANY_SOURCE, self.MPI.ANY_TAG, self.status)

    def nap(self, begun: float, timeout_s: float) -> None:
        """Leave the core to others, the longer the more is left of the usual wait.

        A chain's ranks wait about equally long for every token: short naps from the first moment on
        would wake eight idle ranks so often that the one that computes runs at half its speed.
        """
        waited = time.monotonic() - begun
        if waited > timeout_s:
            raise Silence(f"nothing arrived in {timeout_s:g} s")
        if self.incoming:  # no bell rings for the rest of a message
            time.sleep(min(max(waited / 20, NAP_S), LONGEST_NAP_S))
            return
        if self.posted and time.monotonic() - self.posted_at < IMPATIENT_S:  # it goes on only while we look
            time.sleep(NAP_S)
            return
        left = LONGEST_NAP_S if self.bell.hears_all else 0.9 * self.usual_wait_s - waited
        self.bell.wait(min(max(left / 2, NAP_S), LONGEST_NAP_S))

    def translated(self, error: Exception) -> Exception:
        """MPI's error as one of ours, where it is about a failed process."""
        return self.all_lost() if error.Get_error_class() in self.failed else error  # type: ignore[attr-defined]

    def all_lost(self) -> Lost:
        self.lost = self.dead()
        return Lost(self.lost)

    def leave(self, status: int, together: bool) -> NoReturn:
        """End this process; `together`: every other rank ends now too.

        Only then MPI_Finalize, which waits for all and which no Python code can interrupt.
        """
        if together and not self.lost:
            signal.setitimer(signal.ITIMER_REAL, LEAVE_S)
            self.MPI.Finalize()
        os._exit(status)
