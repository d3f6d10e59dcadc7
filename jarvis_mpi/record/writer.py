"""Writes the record of a run: one HDF5 file, by the end user, complete after `kill -9` of anyone; see
docs/records.md.

Workers' rows come with their messages.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common.layers import Block
from ..protocol.cluster import Hop
from ..protocol.election import NOBODY
from ..protocol.events import Change, Token
from ..protocol.node_state import Sign
from .record_file import Notifier, RecordFile, created, reopened

Mirror = Callable[[int, str, str], None]  # step, the event's name, its text


class RecordedFaults:
    """Records faults and decisions as events. See protocol.events.RunObserver."""

    def __init__(self, file: RecordFile):
        self.file = file

    def sign(self, at_s: float, step: int, node: int, sign: Sign) -> None:
        self.file.add_event(at_s, step, node, sign.name)

    def route(self, at_s: float, step: int, epoch: int, route: Iterable[Hop]) -> None:
        hops = [[hop.node, hop.block.start, len(hop.block), *[1] * hop.patch] for hop in route]
        self.file.add_event(at_s, step, -1, "route", text=json.dumps(hops))

    def copy(self, at_s: float, step: int, node: int, block: Block) -> None:
        self.file.add_event(at_s, step, node, "copy", block)

    def change(self, at_s: float, change: Change) -> None:
        self.file.add_event(at_s, change.step, change.node, "rerouted", change.block, str(change))

    def last_words(self, at_s: float, step: int, node: int, words: str) -> None:
        self.file.add_event(at_s, step, node, "words", text=words)

    def stands_by(self, at_s: float, step: int, node: int) -> None:
        who = "no node stands by" if node == NOBODY else f"node {node} stands by"
        self.file.add_event(at_s, step, -1, "words", text=f"{who} for the end user")

    def shrunk(self, at_s: float, step: int, nodes: Sequence[int]) -> None:
        self.file.add_event(at_s, step, -1, "shrunk", text=json.dumps(list(nodes)))

    def offset(self, at_s: float, node: int, offset_s: float, uncertainty_s: float) -> None:
        """Record that the node's clock is ahead of the end user's by `offset_s`, +- `uncertainty_s`."""
        self.file.add_clock(at_s, node, offset_s, uncertainty_s)


class Record(RecordedFaults):
    """Records a whole run: questions, answers and tokens beside the faults."""

    def __init__(
        self, path: Path, attributes: Mapping[str, Any], now: float, screen: Notifier,
        file: RecordFile | None = None
    ):  # fmt: skip
        """Create a file with `attributes`, or use `file`. Raises Unservable."""
        super().__init__(file or created(path, attributes, now, screen))
        self.path, self.begun_at = path, self.file.begun_at
        self.layers = 0  # run for the last token
        self.mirror: Mirror = lambda step, name, text: None  # is given each question and answer, too

    @classmethod
    def resumed(
        cls, path: Path, attributes: Mapping[str, Any], now: float, screen: Notifier, at_s: float, step: int
    ) -> "Record":
        """Continue the file, which nobody else writes any more; its last row is of `at_s`, and `step` is the
        next."""
        record = cls(path, attributes, now, screen, reopened(path, now, screen, at_s))
        record.file.add_event(now, step, -1, "resumed", text=json.dumps(dict(attributes)))
        return record

    def asked(
        self, at_s: float, step: int, sequence: int, prompt: str, ids: Sequence[int], cached: int
    ) -> None:
        """Record a question whose first token will be `step`; the first `cached` of its `ids` are in the
        nodes' caches."""
        question = {"sequence": sequence, "prompt": prompt, "cached": cached, "ids": list(ids)}
        self.about_text(at_s, step, "asked", question)

    def answered(self, at_s: float, step: int, sequence: int, ended: str, text: str) -> None:
        """Record an answer's end; `step` is one after its last."""
        answer = {"sequence": sequence, "ended": ended, "text": text}
        self.about_text(at_s, step, "answered", answer)

    def refused(self, at_s: float, step: int, number: int, why: str) -> None:
        """Record that this line of --prompts cannot be asked."""
        self.about_text(at_s, step, "refused", {"line": number, "error": why})

    def about_text(self, at_s: float, step: int, name: str, payload: Mapping[str, Any]) -> None:
        text = json.dumps(payload)
        self.file.add_event(at_s, step, -1, name, text=text)
        self.mirror(step, name, text)

    def orphaned(self, at_s: float, step: int) -> None:
        """Record that mpirun is gone."""
        self.file.add_event(at_s, step, -1, "orphaned", text="mpirun died: the ranks go on without it")

    def ended(self, at_s: float, step: int, sentence: str, done: bool, peak_bytes: Mapping[int, int]) -> None:
        """Record the last event: `done`, or else the run can be resumed.
        `sentence`: what went wrong, if anything."""
        end = {"sentence": sentence, "peak_bytes": peak_bytes}
        self.file.add_event(at_s, step, -1, "done" if done else "ended", text=json.dumps(end))

    def write(self, token: Token) -> None:
        """Record one token and the hops it took, on disk when this returns."""
        hops = [
            (
                token.step, piece.end - run.rows, run.rows, run.node, run.block.start, len(run.block),
                run.at_s,
                run.wait_s, run.compute_s, run.sent_s, run.received_bytes, *run.vitals, run.patch,
            )
            for piece in token.pieces
            for run in piece.runs
        ]  # fmt: skip
        if token.pieces:
            self.layers = sum(len(run.block) for run in token.pieces[-1].runs if not run.patch)
        self.file.add("hops", *hops)
        self.file.add(
            "tokens",
            (
                token.step, token.sequence, token.position, token.id, token.at_s - self.begun_at,
                token.total_s,
                token.head_s, self.layers, len(hops),
            ),
        )  # fmt: skip

    def close(self) -> None:
        self.file.close()
