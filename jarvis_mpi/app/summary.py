"""Sums up where a run's time went, in sums only: an afternoon of answers takes no more memory than one."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from ..common.layers import layers
from ..protocol.cluster import Cluster
from ..protocol.events import Token


class Summary:
    """Sums of times. `first_s`: of the first token of all; the means are over those that follow another of
    their answer."""

    def __init__(self) -> None:
        self.first_s, self.prompt, self.count = 0.0, 0, 0
        self.last: dict[int, int] = {}  # sequence -> position of its last token
        self.later, self.later_s, self.last_at_s = 0, 0.0, 0.0
        self.compute_s: defaultdict[int, float] = defaultdict(float)  # node -> of the tokens that count
        self.wait_s: defaultdict[int, float] = defaultdict(float)

    def add(self, token: Token) -> None:
        follows = self.last.get(token.sequence) == token.position - 1
        self.last[token.sequence] = token.position
        if not self.count:
            self.first_s, self.prompt = token.total_s, token.position
        if follows and not self.later:  # until now the sums were the first token's
            self.compute_s.clear()
            self.wait_s.clear()
        self.count += 1
        self.later += follows
        # Answers that are in flight together share the time.
        self.later_s += follows * min(token.total_s, token.at_s - self.last_at_s)
        self.last_at_s = token.at_s
        if follows or self.count == 1:
            for run in (run for piece in token.pieces for run in piece.runs):
                self.compute_s[run.node] += run.compute_s
                self.wait_s[run.node] += run.wait_s

    @property
    def tokens_per_s(self) -> float | None:
        return self.later / self.later_s if self.later else None

    def rows(self, held: Cluster, cluster: Cluster, hosts: Mapping[int, str]) -> Iterator[list[str]]:
        """Yield each node's row, as text: name, host, layers, state, milliseconds of compute and of waiting a
        token."""
        for node, blocks in sorted(held.holds.items()):
            yield [
                "end user" if node == held.end_user else str(node),
                hosts[node],
                ", ".join(map(layers, sorted(blocks, key=min))) or ("spare" if node else ""),
                cluster.state(node).value,
                f"{1e3 * self.compute_s[node] / max(self.later, 1):.2f}",
                f"{1e3 * self.wait_s[node] / max(self.later, 1):.2f}",
            ]
