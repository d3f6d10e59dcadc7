"""A record's Run: its attributes, its tables, and what is computed from them.

    run = load("runs/20261125-011225-17990.h5")
    run.tokens["total_s"], run.hops[run.hops["node"] == 3], run.questions, run.faults

docs/records.md describes the fields.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..common.errors import Unservable
from .fault_costs import Fault, fault_costs
from .questions import Question, questions
from .tables import Event


class Unreadable(Unservable):
    """One sentence: the file, what is wrong with it, and what to do."""


class Lacking(Unreadable, AttributeError):
    """The record lacks this attribute."""


@dataclass(frozen=True)
class Run:
    path: Path
    schema: int
    attributes: dict[str, Any]
    tokens: np.ndarray  # [tokens] of docs/records.md's fields, as the following
    hops: np.ndarray
    clocks: np.ndarray
    events: list[Event]

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the record: run.settings, run.hosts, run.prompt ..."""
        try:
            return self.attributes[name]
        except KeyError:
            raise Lacking(f"{self.path} does not say its {name}") from None

    @property
    def ended(self) -> str:
        """'done'; 'ended': too early; '': it goes on, or was killed."""
        if self.schema < 4:
            return {"": "", "text": "done"}.get(self.attributes.get("ended", ""), "ended")
        return self.events[-1].event if self.events and self.events[-1].event in ("done", "ended") else ""

    @property
    def length_s(self) -> float:
        return max([0.0, *self.tokens["at_s"][-1:], *(event.at_s for event in self.events[-1:])])

    @cached_property
    def starts(self) -> list[dict[str, Any]]:
        """The attributes of each start: the first one, and every --resume."""
        return [self.attributes, *(event.payload for event in self.events if event.event == "resumed")]

    def _of_starts(self, name: str) -> list[Any]:
        """Return that attribute of each start that has it. Raises Lacking where none has."""
        if not (found := [start[name] for start in self.starts if name in start]):
            raise Lacking(f"{self.path} does not say its {name}")
        return found

    @property
    def writer(self) -> dict[str, Any] | None:
        """The process that writes the file; see common/process_identity.py."""
        return self.starts[-1].get("writer")

    @property
    def settings(self) -> dict[str, Any]:
        """Every option's value, of the last start."""
        return self._of_starts("settings")[-1]

    @property
    def hosts(self) -> dict[str, str]:
        """node -> host name, of all starts."""
        return {node: host for hosts in self._of_starts("hosts") for node, host in hosts.items()}

    @property
    def placement(self) -> dict[str, list[str]]:
        """node -> its own blocks, of the last start that had it."""
        return {node: held for blocks in self._of_starts("placement") for node, held in blocks.items()}

    @cached_property
    def resumed_steps(self) -> list[int]:
        return [event.step for event in self.events if event.event == "resumed"]

    @cached_property
    def questions(self) -> list[Question]:
        """The questions in the order asked; several may have been in flight."""
        return questions(self.events, self.tokens, self.schema, self._chats)

    def _chats(self) -> bool:
        return self.settings["prompt"] is None and not self.settings.get("prompts")

    @cached_property
    def follows(self) -> np.ndarray:
        """[tokens] of bool: whether it follows another token of the same answer, so that its time includes no
        prompt."""
        tokens = self.tokens
        first = {question.step for question in self.questions} or {0}
        for step in self.resumed_steps:  # of every sequence that goes on after it
            later = tokens[tokens["step"] >= step]
            first |= set(later["step"][np.unique(later["sequence"], return_index=True)[1]].tolist())
        new = np.concatenate([[True], tokens["step"][1:] != tokens["step"][:-1]])[: len(tokens)]
        return ~(np.isin(tokens["step"], list(first)) & new)

    @cached_property
    def faults(self) -> list[Fault]:
        return list(fault_costs(self.events, self.tokens, self.hops, self.follows))

    def on_one_clock(self, hops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return when the work of each of `hops` began, since the run's beginning, and how far off that may
        be, in seconds.

        Interpolates between the offsets before and after; of those within a minute, the best ones count. NaN
        where a node's clock was never compared (schema 3 and before).
        """
        at, within = np.full(len(hops), np.nan), np.full(len(hops), np.nan)
        # Each start compares the clocks again, the end user's with itself first: a machine may have been
        # booted in between.
        start_of_clock = (self.clocks["node"] == 0).cumsum() - 1
        start_of_hop = np.searchsorted(self.resumed_steps, hops["step"], side="right")
        for start, node in {*zip(start_of_hop.tolist(), hops["node"].tolist(), strict=True)}:
            mine = (hops["node"] == node) & (start_of_hop == start)
            clocks = self.clocks[(self.clocks["node"] == node) & (start_of_clock == start)]
            if len(clocks):
                best = clocks[clocks["uncertainty_s"] <= nearby_minimum(clocks)]
                by_node = best["at_s"] + best["offset_s"]  # by the node's own clock
                at[mine] = hops["at_s"][mine] - np.interp(hops["at_s"][mine], by_node, best["offset_s"])
                within[mine] = np.interp(hops["at_s"][mine], by_node, best["uncertainty_s"])
        return at, within


def nearby_minimum(clocks: np.ndarray, within_s: float = 60.0) -> np.ndarray:
    """Return the least uncertainty of the round trips around each one."""
    first = np.searchsorted(clocks["at_s"], clocks["at_s"] - within_s)
    last = np.searchsorted(clocks["at_s"], clocks["at_s"] + within_s, side="right")
    return np.array([clocks["uncertainty_s"][a:b].min() for a, b in zip(first, last, strict=True)])


def tokens_per_s(run: Run) -> float:
    """Return how many tokens that follow another of their answer come in a second; answers in flight together
    share the time."""
    later = run.follows if run.follows.any() else np.ones(len(run.tokens), bool)
    between_s = np.diff(run.tokens["at_s"], prepend=-np.inf)
    seconds = float(np.minimum(run.tokens["total_s"], between_s)[later].sum())
    return float(later.sum()) / seconds if seconds > 0 else np.inf
