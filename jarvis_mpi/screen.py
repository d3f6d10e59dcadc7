"""What the person at the terminal sees on standard error: the chain at the start, a table at the end."""

import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .crew import END_USER, Crew, layers
from .enduser import Token


class Screen:
    def __init__(self, crew: Crew, hosts: Mapping[int, str]):
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.crew, self.hosts = crew, hosts
        self.tokens: list[Token] = []

    def started(self, model: str, dtype: str, seconds: float) -> None:
        way = " > ".join(
            str(hop) if hop.node else f"end user[{layers(hop.block)}]" for hop in self.crew.route()
        )
        self.console.print(f"{model}, {dtype}, ready in {seconds:.1f} s: {way}", markup=False)
        if spares := self.crew.spares():
            self.console.print(
                f"more workers than layers: node {', '.join(map(str, spares))} waits as a spare"
            )

    def add(self, token: Token) -> None:
        self.tokens.append(token)

    def summary(self, record: Path) -> None:
        """tokens/s, time to first token, and where each node's time went (means of a token)."""
        if not self.tokens:
            return
        first, *later = self.tokens
        prompt = first.position
        speed = f", then {1 / statistics.mean(t.total_s for t in later):.1f} tokens/s" if later else ""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("node", "host", "layers", "compute ms", "wait ms"):
            table.add_column(name, justify="left" if name in ("node", "host", "layers") else "right")
        runs = defaultdict(list)
        for token in later or [first]:
            for run in (run for piece in token.pieces for run in piece.runs):
                runs[run.node].append(run)
        steps = len(later) or 1
        for node, blocks in sorted(self.crew.holds.items()):
            mine = runs[node]
            table.add_row(
                "end user" if node == END_USER else str(node),
                self.hosts[node],
                ", ".join(map(layers, blocks)) or "spare",
                f"{1e3 * sum(run.compute_s for run in mine) / steps:.2f}",
                f"{1e3 * sum(run.wait_s for run in mine) / steps:.2f}",
            )
        self.console.print(table)
        self.console.print(
            f"{len(self.tokens)} tokens: the first after {first.total_s:.2f} s ({prompt} of prompt){speed}; record: {record}",
            markup=False,
        )
