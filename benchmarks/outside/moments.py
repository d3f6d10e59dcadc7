"""Tells when a moment of a run has come: by the clock, standard error, its memory map, its record."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.outside.cases import Order
from benchmarks.outside.evidence import Record

EVENT = {
    "change": ("rerouted",), "takeover": ("takeover",), "copy": ("copy",), "shrunk": ("shrunk",),
    "orphaned": ("orphaned",),
    "sign": ("LOST", "SILENT", "STALLED", "STUCK", "GIVEN_UP", "GARBLED", "BACK", "MISSING"),
}  # fmt: skip
SAID = {
    "importing": "importing torch", "loading": "loading my layers", "ready": "ready in",
    "farewell": "tokens: the first after",
}  # fmt: skip


class Moments:
    """What is known of one run. Each moment is the first of its name."""

    def __init__(self, total: int):
        self.total = total  # tokens of all answers
        self.begun, self.errors = time.monotonic(), ""
        self.records: list[Record] = []

    def count(self) -> int:
        """Return the tokens that a record has."""
        return max((len(record.rows) for record in self.records), default=0)

    def events(self, names: tuple[str, ...]) -> int:
        return sum(event.name in names for record in self.records for event in record.events)

    def has_come(self, order: Order, process: Callable[[], int | None]) -> bool:
        """Tell whether an order's moment has come; `process`: that of its target."""
        match order.moment:
            case "exec":
                return process() is not None
            case "MPI is loaded":
                return loaded(process(), "libmpi")
            case "prefill":
                return self.events(("asked",)) > 0
            case "token":
                return self.count() >= order.token
            case "last token":
                return self.count() >= self.total
            case "route":  # the second: the first is the start's
                return self.events(("route",)) > 1
            case moment if moment in SAID:
                return SAID[moment] in self.errors
        return self.events(EVENT[order.moment]) > 0


def loaded(process: int | None, library: str) -> bool:
    """Tell whether a process has a library in its memory."""
    if process is not None:
        with contextlib.suppress(OSError):
            return library in Path(f"/proc/{process}/maps").read_text()
    return False
