"""Ranks 1..N: receive, run, pass on. A worker decides nothing."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from .crew import END_USER, Block
from .link import Link, Lost
from .wire import Kind, Message, Run

Clock = Callable[[], float]  # seconds, monotonic


class Runs(Protocol):
    """What a stage does, here: S rows of a sequence, from position `start` on -> S rows."""

    def run(self, body: bytes | memoryview, start: int, sequence: int) -> bytes: ...


Stages = Mapping[Block, Runs]


def serve(link: Link, stages: Stages, clock: Clock, timeout_s: float, idle_timeout_s: float) -> None:
    """Run what comes until the end user says goodbye.

    Raises Silence if there is nothing to do for `idle_timeout_s`, or if the next node takes nothing for
    `timeout_s`; Lost if that one or the end user is gone.
    """
    free_at, sent_s = clock(), 0.0
    while True:
        try:
            data = link.receive(idle_timeout_s)
        except Lost as lost:
            if END_USER in lost.nodes:
                raise
            continue  # another worker: the end user knows too, and decides
        came_at = clock()
        message = Message.unpack(data)
        match message.kind:
            case Kind.STEP:
                first = Run(link.me, range(0), came_at - free_at, 0.0, sent_s, len(data))
                message = run_own_hops(first, stages, message, clock)
                done_at = clock()
                link.send(message.ahead[0].node if message.ahead else END_USER, message.pack())
                link.flush(timeout_s)
                free_at = clock()
                sent_s = free_at - done_at
            case Kind.GOODBYE:
                return


def run_own_hops(first: Run, stages: Stages, message: Message, clock: Clock) -> Message:
    """The message after the hops ahead of it that are this node's; `first` says how it came here."""
    while message.ahead and message.ahead[0].node == first.node:
        block = message.ahead[0].block
        begun = clock()
        body = stages[block].run(message.body, message.start, message.sequence)
        run = first._replace(block=block, compute_s=clock() - begun)
        message = replace(message, ahead=message.ahead[1:], runs=(*message.runs, run), body=body)
        first = Run(first.node, block, 0.0, 0.0, 0.0, 0)  # from one own hop to the next nothing travels
    return message
