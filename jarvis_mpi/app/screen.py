"""Shows a run at the terminal: the answer on standard output; on standard error the chain at the start,
what becomes of its nodes, and a table at the end."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..common.console import console
from ..common.layers import END_USER, Block, layers
from ..protocol.cluster import Cluster, Hop
from ..protocol.election import NOBODY
from ..protocol.events import Change, RunObserver, Token
from ..protocol.node_state import Sign, State
from .answers import Answers
from .conversation import Answer
from .summary import Summary
from .terminal import launchers_stream


class Shows(RunObserver, Protocol):
    """Shows a run: a screen for people, or lines of JSON (json_lines.py)."""

    answer: Answers

    def loading(self, blocks: Mapping[int, tuple[Block, ...]]) -> "Loading": ...
    def started(self, cluster: Cluster, model: str, dtype: str, seconds: float) -> None: ...
    def took_over(self, cluster: Cluster, line: str) -> None: ...
    def ready_for_a_line(self) -> None: ...
    def show_earlier_text(self, text: str) -> None: ...
    def token(self, token: Token, piece: str) -> None: ...
    def answered(self, prompt: str, answer: Answer, held: str) -> None: ...
    def tell(self, line: str) -> None: ...
    def way(self, cluster: Cluster) -> None: ...
    def summary(self, cluster: Cluster, record: Path) -> None: ...


CUT = {  # how an answer ended early
    "length": "the answer is cut after {tokens} tokens: --max-new-tokens allows no more",
    "context": "the answer is cut after {tokens} tokens: the model takes no more at a time",
}
Loading = contextlib.AbstractContextManager[Callable[[int], None]]  # is called with each node that is ready


class Tells:
    """Implements the part of RunObserver that all screens share: what is one line, and what the user need not
    know."""

    hosts: Mapping[int, str]
    cluster: Cluster  # as it started

    def __init__(self) -> None:
        self.announced: dict[Block, Change] = {}  # the last of each

    def took_over(self, cluster: Cluster, line: str) -> None:
        """Go on where another end user's screen was."""
        self.cluster = cluster
        self.tell(line)

    def tell(self, line: str) -> None:
        raise NotImplementedError

    def change(self, at_s: float, change: Change) -> None:
        """Announce a change once, not for each answer in flight."""
        if self.announced.get(change.block) != (announcement := replace(change, step=0)):
            self.announced[change.block] = announcement
            self.tell(str(change))

    def last_words(self, at_s: float, step: int, node: int, words: str) -> None:
        self.tell(f"node {node} ({self.hosts[node]}): {words.strip().splitlines()[-1]}")

    def stands_by(self, at_s: float, step: int, node: int) -> None:
        who = "no node stands by" if node == NOBODY else f"node {node} stands by"
        self.tell(f"{who} for the end user")

    def copy(self, at_s: float, step: int, node: int, block: Block) -> None:
        pass

    def shrunk(self, at_s: float, step: int, nodes: Iterable[int]) -> None:
        pass

    def offset(self, at_s: float, node: int, offset_s: float, uncertainty_s: float) -> None:
        pass


class Screen(Tells):
    """Shows a run to a person.
    `asks`: lines are typed, one after the other; `answers`: answers are shown as text."""

    def __init__(self, hosts: Mapping[int, str], asks: bool, answers: bool, in_line: bool = False):
        """`in_line`: an answer that has begun stands on the terminal."""
        super().__init__()
        self.answer, errors = Answers(self.tell), launchers_stream(2)
        # Through mpirun, lines keep their order in a file.
        terminal = errors if errors.isatty() else sys.stderr
        self.console = console(terminal)
        self.hosts, self.asks, self.answers = hosts, asks, answers
        self.totals = Summary()
        self.working = {END_USER}  # nodes that were on a route, or ask
        # Then lines must not stick to it.
        self.mixed = self.answer.stream is not sys.stdout and self.answer.isatty()
        self.in_line = in_line

    @contextlib.contextmanager
    def loading(self, blocks: Mapping[int, tuple[Block, ...]]) -> Iterator[Callable[[int], None]]:
        """Show a line for every node that loads, on a terminal."""
        begun, hosts = time.monotonic(), self.hosts
        columns = (SpinnerColumn(finished_text="+"), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        ) as progress:
            tasks = {
                node: progress.add_task(
                    f"node {node} ({hosts[node]}) loads {', '.join(map(layers, held)) or 'nothing'}", total=1
                )
                for node, held in blocks.items()
            }

            def ready(node: int) -> None:
                took = f"node {node} ({hosts[node]}) is ready after {time.monotonic() - begun:.1f} s"
                progress.update(tasks[node], completed=1, description=took)

            yield ready

    def started(self, cluster: Cluster, model: str, dtype: str, seconds: float) -> None:
        self.cluster = cluster
        self.console.print(f"{model}, {dtype}, ready in {seconds:.1f} s: {route(cluster)}", markup=False)
        if (standby := cluster.standby) != NOBODY:
            self.console.print(
                f"node {standby} ({self.hosts[standby]}) goes on if the end user dies", markup=False
            )
        if spares := [node for node in cluster.spares() if cluster.state(node) is State.UP]:
            self.console.print(
                f"more workers than layers: node {', '.join(map(str, spares))} waits as a spare"
            )
        if self.answers and self.answer.name == os.devnull:
            self.console.print("standard output is closed: the answer stands in the record only")
        if self.asks and self.mixed:
            self.console.print("/help tells what can be said besides a question", markup=False)

    def ready_for_a_line(self) -> None:
        if self.asks and self.mixed:
            print("> ", end="", file=self.answer, flush=True)
            self.in_line = False

    def show_earlier_text(self, text: str) -> None:
        """The beginning of an answer, from the record of a run that is resumed."""
        if self.answers and text:
            print(text, end="", file=self.answer, flush=True)
            self.in_line = True

    def token(self, token: Token, piece: str) -> None:
        self.totals.add(token)
        if self.answers:
            print(piece, end="", file=self.answer, flush=True)
            self.in_line = True

    def answered(self, prompt: str, answer: Answer, held: str) -> None:
        if self.answers:
            print(held, file=self.answer, flush=True)
        self.in_line = False
        if self.answers and (cut := CUT.get(answer.ended)):
            self.tell(cut.format(tokens=answer.tokens))

    # -- RunObserver

    def sign(self, at_s: float, step: int, node: int, sign: Sign) -> None:
        if node not in self.working and sign in (Sign.LOST, Sign.GIVEN_UP, Sign.GARBLED):
            self.tell(f"node {node} {sign.value} at step {step}: it had no work")

    def route(self, at_s: float, step: int, epoch: int, route: Iterable[Hop]) -> None:
        self.working |= {hop.node for hop in route}

    def tell(self, line: str) -> None:
        """Print a line of its own, also where the answer is on the same terminal."""
        self.console.print(f"\n[{line}]" if self.mixed and self.in_line else line, markup=False)

    def way(self, cluster: Cluster) -> None:
        self.tell(route(cluster))

    def summary(self, cluster: Cluster, record: Path) -> None:
        """Print tokens/s, time to first token, and where each node's time went (means of a token)."""
        totals = self.totals
        if not totals.count:
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("node", "host", "layers", "state", "compute ms", "wait ms"):
            table.add_column(name, justify="right" if name.endswith("ms") else "left")
        for row in totals.rows(self.cluster, cluster, self.hosts):
            table.add_row(*row)
        self.console.print(table)
        speed = f", then {totals.tokens_per_s:.1f} tokens/s" if totals.tokens_per_s else ""
        self.console.print(
            f"{totals.count} tokens: the first after {totals.first_s:.2f} s ({totals.prompt} of "
            f"prompt){speed}; record: {record}",
            markup=False,
        )


def route(cluster: Cluster) -> str:
    return " > ".join(map(str, cluster.route()))
