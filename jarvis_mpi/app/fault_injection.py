"""Injects faults: --fault "kill 3 @ 10; stop 5 @ 20 for 4s; slow 2 x3; mute 4 @ 7; raise 6 @ 12".

    kill N @ STEP            its process ends by SIGKILL      raise N @ STEP      an unforeseen exception
    stop N @ STEP [for Ts]   SIGSTOP, then SIGCONT            exit N @ STEP       it exits with status 1
    stall N @ STEP for Ts    its work takes T s longer        slow N [@ STEP] xF  its work takes F times that
    mute N @ STEP [for Ts]   nothing leaves it any more

STEP counts the answer's tokens from 0, N is a node. Tests, demonstrations and papers share this notation.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..common.errors import Unservable
from ..protocol.journal import Runs
from ..protocol.notes import Sendable
from ..protocol.standby import StandbyWorker
from ..protocol.steps_in_flight import Pace
from ..protocol.wire import Message

ORDER = re.compile(
    r"(?P<kind>[a-z]+) +(?P<node>\d{1,9})( *@ *(?P<step>\d{1,9}))?"
    r"( +for +(?P<for_s>\d+(\.\d+)?) *s)?( +x *(?P<times>\d+(\.\d+)?))?"
)
NEEDS = {  # kind -> the fields that it must have
    "kill": {"step"}, "raise": {"step"}, "exit": {"step"}, "stop": {"step"}, "mute": {"step"},
    "stall": {"step", "for_s"}, "slow": {"times"},
}  # fmt: skip
MAY = {"stop": {"for_s"}, "mute": {"for_s"}, "slow": {"step"}}


@dataclass(frozen=True)
class Order:
    kind: str
    node: int
    step: int = 0
    for_s: float = 0.0  # 0: for good
    times: float = 1.0
    words: str = ""  # what was asked


def parse(text: str) -> tuple[Order, ...]:
    """Parse orders separated by ';'. Raises Unservable, naming the one that is wrong."""
    orders = []
    for words in filter(None, (part.strip() for part in text.split(";"))):
        match = ORDER.fullmatch(words)
        fields = {name: value for name, value in match.groupdict().items() if value} if match else {}
        kind = fields.pop("kind", "")
        given = set(fields) - {"node"}
        if kind not in NEEDS or not NEEDS[kind] <= given <= NEEDS[kind] | MAY.get(kind, set()):
            raise Unservable(
                f"--fault {words!r} is not an order such as: kill 3 @ 10 - stop 5 @ 20 for 4s - stall 5 @ "
                "20 for 10s - slow 2 x3 - mute 4 @ 7 - raise 6 @ 12 - exit 6 @ 12"
            )
        numbers = {name: float(fields[name]) for name in ("for_s", "times") if name in fields}
        if numbers.get("for_s", 1.0) <= 0 or numbers.get("times", 2.0) <= 1:
            raise Unservable(
                f"--fault {words!r} would do nothing: `for` takes more than 0 s (without it, it is for "
                "good), and x more than 1"
            )
        orders.append(Order(kind, int(fields["node"]), int(fields.get("step", 0)), **numbers, words=words))
    return tuple(orders)


def check(text: str, ranks: int) -> None:
    """Raise Unservable where an order is none, or of a node that does not exist."""
    if wrong := [order.node for order in parse(text) if not 0 < order.node < ranks]:
        raise Unservable(f"--fault names node {wrong[0]}, but the workers are 1 to {ranks - 1}")


def not_reached(text: str, steps: int) -> Iterator[str]:
    """Yield a sentence for each order whose step did not come in a run of so many steps."""
    for order in parse(text):
        if order.step >= steps:
            yield f"--fault {order.words!r} did not happen: the run had {steps} steps, counted from 0"


class Slowed:
    """A stage that takes longer: `wanted_s` computes how long from a message's bytes and the seconds that it
    took."""

    def __init__(self, stage: Runs, wanted_s: Callable[[int, float], float]):
        self.stage, self.wanted_s, self.crop, self.forget = stage, wanted_s, stage.crop, stage.forget

    def run(self, body: bytes | memoryview, start: int, sequence: int) -> bytes:
        begun = time.perf_counter()
        rows = self.stage.run(body, start, sequence)
        took_s = time.perf_counter() - begun
        time.sleep(max(0.0, self.wanted_s(len(body), took_s) - took_s))
        return rows


def slowed(stage: Runs, times: float) -> Slowed:
    """Return a stage that takes `times` as long."""
    return Slowed(stage, lambda _, took_s: times * took_s)


def paced(stage: Runs, layers: int, row_bytes: int, pace: Pace) -> Slowed:
    """Return a slower machine's stage: a layer takes `pace.one_s` for one row, and `pace.row_s` for each
    further one."""
    return Slowed(stage, lambda bytes_, _: layers * (pace.one_s + (bytes_ // row_bytes - 1) * pace.row_s))


class FaultyWorker(StandbyWorker):
    """A worker that injects its own faults."""

    def __init__(self, orders: Iterable[Order], *parts: Any, **more: Any):
        super().__init__(*parts, **more)
        self.orders, self.muted_until = tuple(orders), 0.0

    def step(self, message: Message, received_bytes: int) -> None:
        due = [order for order in self.orders if message.step >= order.step]
        self.orders = tuple(order for order in self.orders if order not in due)
        for order in due:
            match order.kind:
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "stop":
                    if order.for_s:
                        wake = f"sleep {order.for_s}; kill -CONT {os.getpid()}"
                        subprocess.Popen(["sh", "-c", wake], start_new_session=True)
                    os.kill(os.getpid(), signal.SIGSTOP)
                case "exit":
                    os._exit(1)
                case "raise":
                    raise RuntimeError(f"ordered by --fault at step {message.step}")
                case "mute":
                    self.muted_until = self.clock() + (order.for_s or sys.maxsize)
                case "stall":
                    self.busy_since = self.clock()
                    time.sleep(order.for_s)
                case "slow":
                    for journalled in self.stages.values():
                        journalled.stage = slowed(journalled.stage, order.times)
        super().step(message, received_bytes)

    def pass_on(self, node: int, message: Sendable) -> None:
        if self.clock() >= self.muted_until:
            super().pass_on(node, message)

    def beat(self) -> None:
        if self.clock() >= self.muted_until:
            super().beat()
