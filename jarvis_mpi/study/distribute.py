"""Distribute a study: rank 0 hands units out, the others work on them."""

import contextlib
from dataclasses import dataclass
from typing import Any

from ..common.errors import Unservable
from ..protocol.link import Link, Lost, Silence
from ..protocol.notes import Note, read
from ..protocol.wire import Kind as MessageKind
from ..protocol.wire import Message
from ..record.study_file import StudyFile, Unit
from .work import StudyWorker

UNIT_S = 3600.0  # the longest time for one unit


@dataclass(frozen=True)
class WorkOn(Note):
    """To a worker: do this unit, the fields of a `Unit`."""

    MARK = "unit"
    unit: list[Any]


@dataclass(frozen=True)
class UnitDone(Note):
    """To rank 0: what came of the node's unit."""

    MARK = "came"
    node: int
    came: Any


def lead(link: Link | None, file: StudyFile, worker: StudyWorker | None) -> None:
    """Hand out the units that are left and write the results, on rank 0. Alone it does all itself."""
    from ..common.progress_bar import bar

    units = file.left()
    with bar(len(units), "units") as tick:
        if worker:
            for unit in units:
                file.write(unit, worker.do(unit))
                tick(1)
            return
        assert link
        waiting, idle, busy = units[::-1], list(range(1, link.size)), dict[int, Unit]()
        while waiting or busy:
            while waiting and idle:
                busy[node := idle.pop()] = waiting.pop()
                with contextlib.suppress(Lost):  # the next receive raises it again
                    link.send(node, WorkOn(list(busy[node])).pack())
            try:
                done = read(Message.unpack(link.receive(UNIT_S)), UnitDone)
            except Lost as lost:
                for node in set(lost.nodes) & busy.keys():  # another node does its work
                    waiting.append(busy.pop(node))
                idle = [node for node in idle if node not in lost.nodes]
                if not idle and not busy:
                    raise Unservable("no worker is left: the same command goes on from the file") from None
                continue
            except Silence:
                raise Unservable(
                    f"no worker has answered for {UNIT_S:g} s: the same command goes on from the file"
                ) from None
            assert done
            file.write(busy.pop(done.node), done.came)
            idle.append(done.node)
            tick(1)
        for node in idle:
            with contextlib.suppress(Lost):
                link.send(node, Message(MessageKind.GOODBYE).pack())
        link.flush(5.0)


def follow(link: Link, worker: StudyWorker) -> None:
    """Work on rank 0's units, on ranks 1..N. Raises Silence or Lost."""
    while True:
        try:
            message = Message.unpack(link.receive(UNIT_S))
        except Lost as lost:
            if 0 in lost.nodes:
                raise
            continue
        if message.kind is MessageKind.GOODBYE:
            return
        if work := read(message, WorkOn):
            link.send(0, UnitDone(link.me, worker.do(Unit(*work.unit))).pack())
