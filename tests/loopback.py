"""A network in memory: the real `generate` and `serve`, each node a thread with a queue."""

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager

from jarvis_mpi.crew import END_USER, Crew
from jarvis_mpi.enduser import EndUser
from jarvis_mpi.link import Silence
from jarvis_mpi.wire import Kind, Message
from jarvis_mpi.worker import serve


class Loopback:
    """One node's end of the network; see link.Link."""

    def __init__(self, me: int, queues: Sequence[queue.Queue]):
        self.me, self.size, self.queues = me, len(queues), queues

    def send(self, node: int, data: bytes) -> None:
        self.queues[node].put(bytearray(data))

    def flush(self, timeout_s: float) -> None:
        pass

    def receive(self, timeout_s: float) -> bytearray:
        try:
            return self.queues[self.me].get(timeout=timeout_s)
        except queue.Empty:
            raise Silence(f"nothing arrived in {timeout_s} s") from None


@contextmanager
def chain(head, stages: Mapping[int, Mapping], choose, *, prefill_rows: int = 128):
    """An EndUser whose workers, node -> their stages, serve in threads."""
    queues = [queue.Queue() for _ in range(max(stages) + 1)]
    workers = [
        threading.Thread(
            target=serve, args=(Loopback(node, queues), held, time.perf_counter, 30.0, 30.0), daemon=True
        )
        for node, held in stages.items()
        if node != END_USER
    ]
    for worker in workers:
        worker.start()
    crew = Crew({node: tuple(held) for node, held in stages.items()})
    own = stages.get(END_USER, {})
    link = Loopback(END_USER, queues)
    yield EndUser(link, crew, head, own, choose, time.perf_counter, prefill_rows, timeout_s=30.0)
    for node in stages:
        link.send(node, Message(Kind.GOODBYE).pack())
    for worker in workers:
        worker.join(timeout=30)
        assert not worker.is_alive()
