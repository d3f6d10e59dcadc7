"""A network in memory: the real `generate` and `serve`, each node a thread with a queue."""

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager

from jarvis_mpi.app.fault_injection import FaultyWorker, parse
from jarvis_mpi.common.layers import END_USER
from jarvis_mpi.protocol.cluster import Cluster
from jarvis_mpi.protocol.coordinator import Coordinator
from jarvis_mpi.protocol.journal import Journalled
from jarvis_mpi.protocol.link import Silence
from jarvis_mpi.protocol.services import Parameters, Services
from jarvis_mpi.protocol.speculation import NO_PROPOSALS
from jarvis_mpi.protocol.wire import Kind, Message

JOURNAL_BYTES = 10**7


class Loopback:
    """One node's end of the network; see link.Link."""

    def __init__(self, me: int, queues: Sequence[queue.Queue]):
        self.me, self.size, self.queues, self.nodes = me, len(queues), queues, range(len(queues))

    def send(self, node: int, data: bytes) -> None:
        self.queues[node].put((self.me, bytearray(data)))

    def flush(self, timeout_s: float) -> None:
        pass

    def receive(self, timeout_s: float) -> bytearray:
        try:
            self.sender, data = self.queues[self.me].get(timeout=timeout_s)
            return data
        except queue.Empty:
            raise Silence(f"nothing arrived in {timeout_s} s") from None

    def beat(self, node: int, data: bytes) -> None:
        self.send(node, data)

    def sending(self) -> bool:
        return False

    orphaned, end_user = False, 0

    def shrink(self, attempt: int, members: Sequence[int], certain: bool) -> None:
        pass


class Deaf:
    """Is told of faults, and minds none."""

    def __getattr__(self, name):
        return lambda *_: None


@contextmanager
def chain(
    head,
    stages: Mapping[int, Mapping],
    choose,
    *,
    prefill_rows: int = 128,
    observer=None,
    copies=None,
    fault="",
    drafts=NO_PROPOSALS,
):
    """A Coordinator whose workers, node -> their stages, serve in threads; `copies`: block -> their
    holders."""
    queues = [queue.Queue() for _ in range(max(stages) + 1)]
    copies = copies or {}
    holds = {
        node: tuple(block for block in held if node not in copies.get(block, ()))
        for node, held in stages.items()
    }

    def journalled(node):
        return {
            block: Journalled(stage, block, JOURNAL_BYTES) for block, stage in stages.get(node, {}).items()
        }

    def faulty(node):
        orders = [order for order in parse(fault) if order.node == node]
        return FaultyWorker(
            orders, Loopback(node, queues), journalled(node), time.perf_counter, no_copies, 0.25
        )

    workers = [faulty(node) for node in stages if node != END_USER]
    threads = [threading.Thread(target=worker.serve, args=(30.0,), daemon=True) for worker in workers]
    beats = threading.Event()
    threads.append(threading.Thread(target=beat_all, args=(workers, beats), daemon=True))
    for thread in threads:
        thread.start()
    link = Loopback(END_USER, queues)
    services = Services(
        link,
        head,
        journalled(END_USER),
        choose,
        time.perf_counter,
        no_copies,
        observer or Deaf(),
        drafts=drafts,
    )
    try:
        yield Coordinator(services, Cluster(holds, copies), Parameters(prefill_rows))
    finally:
        for node in stages:
            link.send(node, Message(Kind.GOODBYE).pack())
        beats.set()
        for thread in threads:
            thread.join(timeout=30)
            assert not thread.is_alive()


def beat_all(workers, stop):
    while not stop.wait(0.25):
        for worker in workers:
            worker.beat()


def no_copies(block):
    raise AssertionError(f"nobody wants a copy of {block}")
