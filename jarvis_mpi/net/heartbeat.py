"""Sends a node's heartbeats from a thread, also while it computes, loads or waits."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..common.layers import END_USER
from ..protocol.link import Link
from ..protocol.wire import Beat


class Heartbeat:
    """What a beat does, and how often; at first it says that a worker starts."""

    def __init__(self, link: Link, beat_s: float):
        self.beat_s = beat_s
        still_starting = Beat(link.me, 0.001, False, {}).pack()  # busy: nothing can be asked of it yet
        self.say: Callable[[], None] = lambda: link.beat(END_USER, still_starting)


@contextmanager
def beating(link: Link, beat_s: float, say: Callable[[], None] | None = None) -> Iterator[Heartbeat]:
    """Send a beat every `beat_s` seconds inside the `with`; `say` does it."""
    heartbeat, stop = Heartbeat(link, beat_s), threading.Event()
    heartbeat.say = say or heartbeat.say

    def go() -> None:
        while not stop.wait(heartbeat.beat_s):
            heartbeat.say()

    thread = threading.Thread(target=go, name="beats", daemon=True)
    thread.start()
    try:
        yield heartbeat
    finally:
        stop.set()
        thread.join(1.0)
