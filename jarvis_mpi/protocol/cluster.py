"""Who is there, who does whose work, and which way a token goes. Every fault decision is made here.

Rule 1: nothing outside this file decides which node runs a layer, and nothing outside reserves.py which is to
load a copy.
Rule 2: this file knows no MPI, no clock, no tensor and no file: signs in, a new cluster out.

A node is named by its rank at launch, for ever: a shrink renumbers ranks, never nodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ..common.errors import Unservable
from ..common.layers import END_USER, Block, is_whole, layers, named
from .election import NOBODY
from .node_state import TRANSITIONS, Sign, State


class Hop(NamedTuple):
    """One stop of a token: `node` runs the layers of `block`, and is sent the positions from `since` on.

    `patch`: nobody runs them, and the node, the one before the hole, puts their patch in their place
    (model/patch.py).
    """

    node: int
    block: Block
    since: int = 0
    patch: bool = False

    def __str__(self) -> str:
        return f"{self.node or 'end user'}[{'patch ' * self.patch}{layers(self.block)}]"


@dataclass(frozen=True)
class Policy:
    """What the user lets a fault cost."""

    # what to do without a node, the best first; () is: stop
    ladder: tuple[str, ...] = ("copy", "patch", "skip")
    max_skipped: int = 10**6  # layers at a time; patched ones are not skipped
    never_skip: frozenset[int] = frozenset()
    copies: int = 0  # of every block, to be had again after a takeover
    copied: frozenset[Block] | None = None  # of these blocks alone


@dataclass(frozen=True)
class Cluster:
    """Who holds what and how everyone is."""

    holds: Mapping[int, tuple[Block, ...]]  # node -> its own blocks; a spare holds none
    # block -> further holders, best first
    copies: Mapping[Block, tuple[int, ...]] = field(default_factory=dict)
    policy: Policy = Policy()
    room: Mapping[int, float] = field(default_factory=dict)  # node -> layers for which it has memory
    patches: frozenset[Block] = frozenset()  # holes for which there is one, of one block or of neighbours
    patchers: frozenset[int] = frozenset()  # nodes that have them
    states: Mapping[int, State] = field(default_factory=dict)  # node -> its state; UP where it is not named
    end_user: int = END_USER
    standby: int = NOBODY  # has room for what the end user holds
    inherited: tuple[Block, ...] | None = None  # blocks of the end user's that came from the one before it

    def state(self, node: int) -> State:
        return self.states.get(node, State.UP)

    def with_event(self, node: int, sign: Sign) -> "Cluster":
        """The cluster once `sign` was seen of `node`; itself if that changes nothing."""
        state = TRANSITIONS.get((self.state(node), sign))
        return replace(self, states={**self.states, node: state}) if state else self

    def with_copy(self, node: int, block: Block) -> "Cluster":
        """The cluster once `node` has loaded a copy of `block`."""
        holders = self.copies.get(block, ())
        return self if node in holders else replace(self, copies={**self.copies, block: (*holders, node)})

    @property
    def end_users_blocks(self) -> tuple[Block, ...]:
        """Those that go with being the end user."""
        return self.holds[self.end_user] if self.inherited is None else self.inherited

    def with_end_user(self, node: int) -> "Cluster":
        """The cluster once `node` has taken over, which holds what goes with that."""
        before, blocks = self.end_user, self.end_users_blocks
        left = tuple(block for block in self.holds[before] if block not in blocks)
        holds = {**self.holds, before: left, node: (*self.holds[node], *blocks)}
        return replace(self, holds=holds, end_user=node, standby=NOBODY, inherited=blocks)

    def blocks(self) -> list[tuple[Block, int]]:
        """Every block and the node whose own it is, in the order of the layers."""
        own = [(block, node) for node, blocks in self.holds.items() for block in blocks]
        return sorted(own, key=lambda each: each[0].start)

    def route(self) -> tuple[Hop, ...]:
        """Every layer that can be had, once, in order, and patches for the others.
        Raises Unservable where the policy lets it not go on."""
        hops: list[Hop] = []
        hole: list[Block] = []
        for block, owner in self.blocks():
            holder = self.holder(block, owner)
            if holder is None:
                hole.append(block)
            else:
                hops += [*self.patched(hops, hole), Hop(holder, block)]
                hole = []
        if not hops:
            raise Unservable("no node that holds a layer is left")
        hops += self.patched(hops, hole)
        served = {layer for hop in hops for layer in hop.block}
        self.check([(block, owner) for block, owner in self.blocks() if not served & set(block)])
        return tuple(hops)

    def patched(self, before: Sequence[Hop], hole: Sequence[Block]) -> list[Hop]:
        """What the node before a hole of neighbouring blocks does about it: the patches that span most, the
        first first."""
        node = before[-1].node if before else self.end_user
        if "patch" not in self.policy.ladder or node not in self.patchers:
            return []
        hops = []
        while hole:
            for count in range(len(hole), 0, -1):
                span = range(hole[0].start, hole[count - 1].stop)
                if span in self.patches and is_whole(hole[:count]):
                    hops.append(Hop(node, span, patch=True))
                    break
            hole = hole[count:]  # where nothing spans it, the first alone is bypassed
        return hops

    def holder(self, block: Block, owner: int) -> int | None:
        """Who runs `block`: its owner, else a copy; a stalled one is waited for where nobody else is left."""
        if not self.policy.ladder and self.state(owner) in (State.SILENT, State.LOST):
            raise Unservable(f"node {owner} is {self.state(owner).value} ({named(block)}): --on-fault stop")
        copies = self.copies.get(block, ()) if "copy" in self.policy.ladder else ()
        for state in (State.UP, State.STALLED):
            for node in (owner, *copies):
                if self.state(node) is state:
                    return node
        return None

    def check(self, skipped: list[tuple[Block, int]]) -> None:
        """Raises Unservable if the policy does not let these blocks of these owners be skipped."""
        if not skipped:
            return
        lost = ", ".join(f"{layers(block)} (node {owner})" for block, owner in skipped)
        lost = f"layers {lost} are lost and no copy is left"
        missing = [layer for block, _ in skipped for layer in block]
        if "skip" not in self.policy.ladder:
            raise Unservable(f"{lost}: --on-fault {','.join(self.policy.ladder)} skips none")
        if never := sorted(self.policy.never_skip & set(missing)):
            raise Unservable(f"{lost}: layer {', '.join(map(str, never))} may not be skipped (--never-skip)")
        if len(missing) > self.policy.max_skipped:
            raise Unservable(
                f"{lost}: {len(missing)} layers, at most {self.policy.max_skipped} may be skipped "
                "(--max-skipped)"
            )

    def spares(self) -> tuple[int, ...]:
        return tuple(node for node, blocks in self.holds.items() if node != self.end_user and not blocks)
