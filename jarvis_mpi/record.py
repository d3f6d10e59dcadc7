"""The record of a run: one HDF5 file, written by the end user, whole after `kill -9` of anyone.

    tokens  one row a token         hops  one row a token (or piece of the prompt) and stage
    events  one row for every question, sign of a fault, route taken, copy loaded, and all that the person was told
    attributes: schema, prompt, settings, versions, hosts, placement, model, started (JSON or text)

Durations are seconds of one node's monotonic clock. Workers' rows came with the messages.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .crew import Block, Hop, Sign
from .enduser import Token
from .link import Unservable
from .news import Change

SCHEMA = 3

TOKEN = np.dtype(
    [
        ("step", "u4"),  # counts the run's tokens from 0
        ("position", "u4"),  # in the sequence, prompt included
        ("token", "u4"),  # its id
        ("total_s", "f8"),  # from the token before it to this one; step 0: from the prompt
        ("head_s", "f8"),  # of that, the end user's embedding, output layer and choice
        ("layers", "u2"),  # run on the position before: fewer than the model's where some were skipped
    ]
)
EVENT = np.dtype(
    [
        ("at_s", "f8"),  # of the end user's monotonic clock, since the prompt
        ("step", "u4"),
        ("node", "i4"),  # -1: none
        ("event", "S8"),  # a sign (crew.Sign), or: asked, answered, route, copy, told, words, shrunk
        ("first_layer", "u2"),  # copy: of its block
        ("layers", "u2"),
        # route: [[node, first layer, layers], ...]; shrunk: [node, ...]; told, words: what was said
        # asked: {sequence, prompt, kept, ids}, of which `kept` ids were there before; answered: how it ended
        ("text", h5py.string_dtype()),
    ]
)
HOP = np.dtype(
    [
        ("step", "u4"),
        ("start", "u4"),  # position of the first row run
        ("rows", "u4"),  # positions run: 1, a piece of the prompt, or what a copy or a returned node lacked
        ("node", "u2"),
        ("first_layer", "u2"),
        ("layers", "u2"),
        ("wait_s", "f4"),  # from the end of the node's last work to the message's arrival
        ("compute_s", "f4"),
        ("previous_send_s", "f4"),  # sending the node's previous message (this one carried the row)
        ("received_bytes", "u4"),  # of the message; 0: the node handed it to itself
    ]
)


def check_path(path: Path) -> None:
    """Raises Unservable where no record can be written: better before the model is loaded than after."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("x").close()
        path.unlink()
    except OSError as error:
        taken = isinstance(error, FileExistsError) and path.exists()
        reason = "there is a file of that name already" if taken else error.strerror
        raise Unservable(f"--log {path} cannot be written: {reason}") from None


class Record:
    def __init__(self, path: Path, attributes: Mapping[str, Any]):
        """A new file with `attributes`; see check_path."""
        self.file = h5py.File(path, "x")
        self.path = path
        self.tokens = self.file.create_dataset("tokens", (0,), TOKEN, maxshape=(None,), chunks=(256,))
        self.hops = self.file.create_dataset("hops", (0,), HOP, maxshape=(None,), chunks=(1024,))
        self.events = self.file.create_dataset("events", (0,), EVENT, maxshape=(None,), chunks=(64,))
        self.begun_at: float | None = None
        self.note(schema=SCHEMA, **attributes)

    # -- what enduser.Hears asks for

    def sign(self, at_s: float, step: int, node: int, sign: Sign) -> None:
        self.event(at_s, step, node, sign.name)

    def route(self, at_s: float, step: int, epoch: int, route: Iterable[Hop]) -> None:
        hops = [[hop.node, hop.block.start, len(hop.block)] for hop in route]
        self.event(at_s, step, -1, "route", text=json.dumps(hops))

    def copy(self, at_s: float, step: int, node: int, block: Block) -> None:
        self.event(at_s, step, node, "copy", block)

    def change(self, at_s: float, change: Change) -> None:
        self.event(at_s, change.step, change.node, "told", change.block, str(change))

    def words(self, at_s: float, step: int, node: int, words: str) -> None:
        self.event(at_s, step, node, "words", text=words)

    def shrunk(self, at_s: float, step: int, nodes: Sequence[int]) -> None:
        self.event(at_s, step, -1, "shrunk", text=json.dumps(list(nodes)))

    def asked(
        self, at_s: float, step: int, sequence: int, prompt: str, ids: Sequence[int], kept: int
    ) -> None:
        """A question whose first token will be `step`; of its `ids` the first `kept` were there before."""
        said = {"sequence": sequence, "prompt": prompt, "kept": kept, "ids": list(ids)}
        self.event(at_s, step, -1, "asked", text=json.dumps(said))

    def answered(self, at_s: float, step: int, ended: str) -> None:
        """`step` is the one after the answer's last."""
        self.event(at_s, step, -1, "answered", text=ended)

    def event(
        self, at_s: float, step: int, node: int, event: str, block: Block = range(0), text: str = ""
    ) -> None:
        if self.begun_at is None:
            self.begun_at = at_s
            self.note(clock_at_begin_s=at_s)
        row = (at_s - self.begun_at, step, node, event.encode(), block.start, len(block), text)
        append(self.events, np.array([row], EVENT))
        self.file.flush()

    def write(self, token: Token) -> None:
        """One token and the hops it took, on disk when this returns."""
        hops = [
            (token.step, piece.end - run.rows, run.rows, run.node, run.block.start, len(run.block), *run[3:])
            for piece in token.pieces
            for run in piece.runs
        ]
        layers = sum(len(run.block) for run in token.pieces[-1].runs)
        append(self.hops, np.array(hops, HOP))
        append(
            self.tokens,
            np.array([(token.step, token.position, token.id, token.total_s, token.head_s, layers)], TOKEN),
        )
        self.file.flush()

    def note(self, **attributes: Any) -> None:
        """More attributes; whatever is no text or number goes in as JSON."""
        for name, value in attributes.items():
            self.file.attrs[name] = value if isinstance(value, str | int | float) else json.dumps(value)
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def append(dataset: h5py.Dataset, rows: np.ndarray) -> None:
    end = len(dataset)
    dataset.resize(end + len(rows), axis=0)
    dataset[end:] = rows
