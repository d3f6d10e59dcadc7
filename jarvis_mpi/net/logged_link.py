"""Logs each message that a node sends or receives, for JARVIS_DEBUG=net: one line a message, by the logger
jarvis_mpi.net."""

import logging
from typing import Any, TypeVar, cast

from ..common.layers import END_USER
from ..protocol.wire import Beat, Kind, Message, read_note

AnyLink = TypeVar("AnyLink")

LOG = logging.getLogger("jarvis_mpi.net")


def logged(link: AnyLink) -> AnyLink:
    """Return `link` with its messages logged."""
    return cast(AnyLink, LoggedLink(link))


class LoggedLink:
    """A Link that logs what `send` and `receive` carry.
    A beat is logged where it arrives, since a link may drop it."""

    def __init__(self, link: Any):
        self.link = link

    def __getattr__(self, name: str) -> Any:
        return getattr(self.link, name)

    def send(self, node: int, data: bytes) -> None:
        LOG.debug("send %s", described(data, self.link.me, node))
        self.link.send(node, data)

    def receive(self, timeout_s: float) -> bytearray:
        data: bytearray = self.link.receive(timeout_s)
        LOG.debug("recv %s", described(data, None, self.link.me))
        return data


def described(data: bytes | bytearray, sender: int | None, receiver: int) -> str:
    """Return 'KIND FROM>TO name=value ... bytes=N'; a sender that is None is found in the message."""
    try:
        message = Message.unpack(data)
        source = sender_of(message) if sender is None else sender
        fields = fields_of(message)
    except (ValueError, KeyError) as error:  # another version's: whoever reads it says so
        return f"unreadable >{receiver} bytes={len(data)} ({error})"
    values = "".join(f" {name}={value}" for name, value in fields.items())
    return f"{message.kind.name} {source}>{receiver}{values} bytes={len(data)}"


def sender_of(message: Message) -> int:
    """Return who sent the message: it ran the last of its runs, or named itself; the end user does
    neither."""
    match message.kind:
        case Kind.STEP if message.runs:
            return message.runs[-1].node
        case Kind.BEAT:
            return Beat.of(message).node
        case Kind.NOTE:
            return int(read_note(message).get("node", END_USER))
    return END_USER


def fields_of(message: Message) -> dict[str, Any]:
    """Return what tells a message from others of its kind."""
    match message.kind:
        case Kind.STEP:
            return {
                "sequence": message.sequence, "step": message.step, "epoch": message.epoch,
                "start": message.start, "rows": message.rows,
            }  # fmt: skip
        case Kind.NOTE:
            return {"note": ",".join(read_note(message))}
        case Kind.BEAT:
            beat = Beat.of(message)
            return {"busy_s": f"{beat.busy_s:.3f}", "sending": beat.sending}
    return {"body": bytes(message.body).decode(errors="replace")}
