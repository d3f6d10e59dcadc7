"""Writes what a screen shows as lines of JSON on standard output, for programs: --json."""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..common.layers import Block
from ..common.messages import say
from ..protocol.cluster import Cluster, Hop
from ..protocol.election import NOBODY
from ..protocol.events import Token
from ..protocol.node_state import Sign
from .answers import Answers
from .conversation import Answer
from .screen import Tells, route
from .summary import Summary


class Lines(Tells):
    """Shows a run as JSON (see screen.Shows).
    Every line has an "event"; those of answers come only if `answers`."""

    def __init__(self, hosts: Mapping[int, str], answers: bool):
        super().__init__()
        self.hosts, self.answer, self.answers = hosts, Answers(say), answers
        self.totals = Summary()

    def line(self, event: str, **what: Any) -> None:
        print(json.dumps({"event": event, **what}, ensure_ascii=False), file=self.answer, flush=True)

    @contextlib.contextmanager
    def loading(self, blocks: Mapping[int, tuple[Block, ...]]) -> Iterator[Callable[[int], None]]:
        yield lambda node: self.line("loaded", node=node, host=self.hosts[node])

    def started(self, cluster: Cluster, model: str, dtype: str, seconds: float) -> None:
        self.cluster = cluster
        self.line(
            "started", model=model, dtype=dtype, start_s=seconds, route=route(cluster),
            standby=None if cluster.standby == NOBODY else cluster.standby,
        )  # fmt: skip

    def ready_for_a_line(self) -> None:
        pass

    def show_earlier_text(self, text: str) -> None:
        if self.answers and text:
            self.line("before", text=text)

    def token(self, token: Token, piece: str) -> None:
        self.totals.add(token)
        if self.answers:
            self.line("token", step=token.step, id=token.id, text=piece, total_s=token.total_s)

    def answered(self, prompt: str, answer: Answer, held: str) -> None:
        if self.answers:
            self.line("answer", prompt=prompt, **answer.as_dict())

    def sign(self, at_s: float, step: int, node: int, sign: Sign) -> None:
        self.line("sign", step=step, node=node, sign=sign.value)

    def route(self, at_s: float, step: int, epoch: int, route: Iterable[Hop]) -> None:
        self.line("route", step=step, route=" > ".join(map(str, route)))

    def tell(self, line: str) -> None:
        self.line("notice", text=line)

    def way(self, cluster: Cluster) -> None:
        self.tell(route(cluster))

    def summary(self, cluster: Cluster, record: Path) -> None:
        if not self.totals.count:
            return
        names = ("node", "host", "layers", "state", "compute_ms", "wait_ms")
        self.line(
            "summary",
            tokens=self.totals.count,
            first_token_s=self.totals.first_s,
            tokens_per_s=self.totals.tokens_per_s,
            nodes=[
                dict(zip(names, row, strict=True))
                for row in self.totals.rows(self.cluster, cluster, self.hosts)
            ],
            record=str(record),
        )
