"""What the person at the terminal sees on standard error: the chain at the start, a table at the end."""

import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table

from .crew import END_USER, Block, Crew, Hop, Sign, State, layers
from .enduser import Token
from .news import Change


class Screen:
    def __init__(self, crew: Crew, hosts: Mapping[int, str], answer: TextIO):
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.crew, self.hosts = crew, hosts
        self.tokens: list[Token] = []
        self.working: set[int] = set()  # nodes that had a part in the text
        self.mixed = answer is not sys.stdout and answer.isatty()  # then lines must not stick to it

    def started(self, crew: Crew, model: str, dtype: str, seconds: float) -> None:
        way = " > ".join(map(str, crew.route()))
        self.console.print(f"{model}, {dtype}, ready in {seconds:.1f} s: {way}", markup=False)
        if spares := [node for node in crew.spares() if crew.state(node) is State.WELL]:
            self.console.print(
                f"more workers than layers: node {', '.join(map(str, spares))} waits as a spare"
            )

    def add(self, token: Token) -> None:
        self.tokens.append(token)

    # -- what enduser.Hears asks for: of all that only what the person must know

    def change(self, at_s: float, change: Change) -> None:
        self.tell(str(change))

    def words(self, at_s: float, step: int, node: int, words: str) -> None:
        self.tell(f"node {node} ({self.hosts[node]}): {words.strip().splitlines()[-1]}")

    def sign(self, at_s: float, step: int, node: int, sign: Sign) -> None:
        if node not in self.working and sign in (Sign.LOST, Sign.GIVEN_UP):
            self.tell(f"node {node} {sign.value} at step {step}: it had no work")

    def route(self, at_s: float, step: int, epoch: int, route: Iterable[Hop]) -> None:
        self.working |= {hop.node for hop in route}

    def copy(self, at_s: float, step: int, node: int, block: Block) -> None:
        pass

    def shrunk(self, at_s: float, step: int, nodes: Iterable[int]) -> None:
        pass

    def tell(self, line: str) -> None:
        """A line of its own, also where the answer stands on the same terminal."""
        self.console.print(f"\n[{line}]" if self.mixed else line, markup=False)

    def summary(self, crew: Crew, record: Path) -> None:
        """tokens/s, time to first token, and where each node's time went (means of a token)."""
        if not self.tokens:
            return
        first, *later = self.tokens
        prompt = first.position
        speed = f", then {1 / statistics.mean(t.total_s for t in later):.1f} tokens/s" if later else ""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("node", "host", "layers", "is", "compute ms", "wait ms"):
            table.add_column(name, justify="right" if name.endswith("ms") else "left")
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
                crew.state(node).value,
                f"{1e3 * sum(run.compute_s for run in mine) / steps:.2f}",
                f"{1e3 * sum(run.wait_s for run in mine) / steps:.2f}",
            )
        self.console.print(table)
        self.console.print(
            f"{len(self.tokens)} tokens: the first after {first.total_s:.2f} s ({prompt} of prompt){speed}; record: {record}",
            markup=False,
        )
