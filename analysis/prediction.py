"""Simulates a run by a discrete-event model: stages and links are each busy with one message at a time."""

import heapq
import itertools
import math
import random
from dataclasses import dataclass

import script  # noqa: F401 (it says where jarvis_mpi is)
from costs import Costs

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.layers import END_USER
from jarvis_mpi.protocol import placement as blocks
from jarvis_mpi.protocol.cluster import Cluster, Hop, Policy
from jarvis_mpi.protocol.node_state import Sign
from jarvis_mpi.protocol.request import pieces
from jarvis_mpi.protocol.reserves import copies_to_load

SLOWEST = 1e9
WINDOW_BYTES, EAGER_BYTES = 14600, 65536


@dataclass(frozen=True)
class Network:
    delay_s: float = 0.0  # one way, beyond that of the run
    kbit_s: float = SLOWEST
    burst_bytes: int = 0  # that pass at once if the link was idle (Linux' tbf: own_links.py says 16 KiB)


def extra_rtts(size: float) -> int:
    """Return the round trips beyond the one way until TCP has sent it all: it begins with a window of ten
    segments and doubles that (RFC 6928); and a message too large for Open MPI's eager limit asks first."""
    return (
        math.ceil(math.log2(size / WINDOW_BYTES + 1)) - 1 + (size > EAGER_BYTES) if size > WINDOW_BYTES else 0
    )


class Chain:
    """Stages and links, each busy until some moment."""

    def __init__(self, costs: Costs, network: Network, cluster: Cluster):
        self.costs, self.network, self.cluster = costs, network, cluster
        self.free_at: dict[int, float] = {}
        self.link_free_at: dict[int, float] = {}

    def work_s(self, hop: Hop, rows: int) -> float:
        costs, factor = self.costs, 1.0
        if hop.node < len(costs.slower):
            factor = costs.slower[hop.node]
        return factor * (costs.stage_s + len(hop.block) * (costs.layer_s + (rows - 1) * costs.row_s))

    def carry(self, node: int, at: float, rows: int, number: int) -> float:
        """Return when a message that leaves `node` at `at` is at the next."""
        costs, network = self.costs, self.network
        size = costs.header_bytes + number * costs.run_bytes + rows * costs.body_bytes
        byte_s = 8e-3 / network.kbit_s
        # As a token bucket has it: its bytes come back at the link's rate.
        empty_until = max(self.link_free_at.get(node, 0.0), at - network.burst_bytes * byte_s)
        self.link_free_at[node] = empty_until + size * byte_s
        return max(at, self.link_free_at[node]) + (1 + 2 * extra_rtts(size)) * network.delay_s + costs.hop_s

    def step(self, at: float, sizes: list[int]) -> float:
        """Return when the token is chosen whose rows leave in pieces of `sizes` from `at` on."""
        route, home = self.cluster.route(), at
        arrivals = []  # when, which piece, how many hops are behind it
        for piece, rows in enumerate(sizes):
            is_here = route[0].node == END_USER
            arrivals.append((at if is_here else self.carry(END_USER, at, rows, 0), piece, 0))
        while arrivals:
            now, piece, done = heapq.heappop(arrivals)
            if done == len(route):
                home = max(home, now)
                continue
            node, rows = route[done].node, sizes[piece]
            now = self.free_at[node] = max(now, self.free_at.get(node, 0.0)) + self.work_s(route[done], rows)
            goes_to = route[done + 1].node if done + 1 < len(route) else END_USER
            if goes_to != node:
                number = sum(a.node != b.node for a, b in itertools.pairwise(route[: done + 1]))
                now = self.carry(node, now, rows if done + 1 < len(route) else 1, number)
            heapq.heappush(arrivals, (now, piece, done + 1))
        return home + self.costs.head_s


def predicted(
    costs: Costs,
    network: Network,
    nodes: int,
    *,
    split: str = "even",
    end_user_layers: str = "first,last",
    copies: int = 1,
    prompt_rows: int = 36,
    tokens: int = 200,
    failures_per_hour: float = 0.0,
    noticed_s: float = 0.05,
    dice: random.Random | None = None,
) -> tuple[float, float, str]:
    """Simulate a run. -> seconds to the first token, tokens/s of the others, how it ended ('': whole).
    Raises Unservable."""
    placement = blocks.place(costs.layers, nodes - 1, split=split, end_user_layers=end_user_layers)
    cluster = Cluster(placement, blocks.copies(placement, copies),
                      Policy(("copy", "skip"), costs.layers // 3, frozenset(), copies),
                dict.fromkeys(placement, 1e6))  # fmt: skip
    chain = Chain(costs, network, cluster)
    first_s = now = chain.step(0.0, pieces(prompt_rows, 256, nodes - 1))
    dice = dice or random.Random(0)
    deaths = [] if not failures_per_hour else [
        (dice.expovariate(failures_per_hour / 3600), node) for node in range(1, nodes)
    ]  # fmt: skip
    for number in range(tokens - 1):
        died = [node for at, node in deaths if at <= now]
        deaths = [(at, node) for at, node in deaths if at > now]
        for node in died:
            before = chain.cluster.route()
            chain.cluster = chain.cluster.with_event(node, Sign.LOST)
            try:
                after = chain.cluster.route()
            except Unservable as error:
                return first_s, (number + 1) / (now - first_s) if now > first_s else 0.0, str(error)
            taken_over = [hop for hop in after if hop not in before]
            now += noticed_s + sum(chain.work_s(hop, prompt_rows + number) for hop in taken_over)
            for copy in copies_to_load(chain.cluster):
                chain.cluster = chain.cluster.with_copy(*copy)
        now = chain.step(now, [1])
    return first_s, (tokens - 1) / (now - first_s), ""
