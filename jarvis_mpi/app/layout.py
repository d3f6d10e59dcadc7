"""Decides which node holds which layers of a run, and their copies, from the nodes' hellos."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.layers import END_USER, Block
from ..common.messages import say
from ..common.settings import Settings
from ..model.patch import PatchInfo
from ..net.handshake import Handshake, Hello
from ..net.mpi_parameters import machines_without_daemon_at_home
from ..net.plan import free_bytes
from ..protocol import placement as blocks
from ..protocol.cluster import Cluster, Policy
from ..protocol.election import FEWEST, NOBODY
from ..protocol.expected_loss import NO_LOSS_KNOWN, ExpectedLoss
from ..protocol.placement import Placement
from ..record.study_file import costs_in

if TYPE_CHECKING:
    from .served_model import ServedModel


# What a standby has beside layers: transformers and a tokenizer (python -m benchmarks.speed.standby_price).
PARTS_BYTES = 150e6


@dataclass(frozen=True)
class Layout:
    hellos: Mapping[int, Hello]  # of the nodes that reported
    free_bytes: Mapping[int, float]
    placement: Placement
    copies: Mapping[Block, tuple[int, ...]]
    policy: Policy
    standby: int = NOBODY

    @property
    def layer_counts(self) -> dict[int, int]:
        """How many layers each node runs."""
        return {node: sum(map(len, self.placement[node])) for node in self.hellos}


def loss_known(settings: Settings, patches: PatchInfo | None, depth: int) -> ExpectedLoss:
    """Return the loss expected without each layer, from --study and --patches. Raises Unservable."""
    known = ExpectedLoss(*patches.losses) if patches else NO_LOSS_KNOWN
    if settings.study:
        known = ExpectedLoss({**known.skipped, **costs_in(Path(settings.study), depth)}, known.patched)
    return known


def laid_out(
    handshake: Handshake, mine: Hello, settings: Settings, expected_loss: ExpectedLoss, model: "ServedModel"
) -> Layout:
    """Gather the nodes, and place the model's layers on those that reported. Raises Unservable."""
    depth = model.depth
    never_skip = (
        expected_loss.never_skip()
        if settings.never_skip == "auto"
        else blocks.layers_named(settings.never_skip, depth)
    )
    left_out = blocks.counted_from_1(settings.skip_layers, depth)
    hellos = handshake.gather(mine)
    if handshake.link.vendor == "Open MPI" and (warning := machines_without_daemon_at_home(hellos)):
        say(warning)
    free = free_bytes(hellos)
    placement = blocks.place(
        depth,
        handshake.link.size - 1,
        split=settings.split,
        end_user_layers=settings.end_user_layers,
        free_bytes=free,
        # Where parts were delivered, only copies have the layers of a missing node; or they are skipped.
        missing=() if any(other.has_a_part for other in hellos.values()) else handshake.missing,
    )
    placement = blocks.without(placement, left_out)
    copies = blocks.copies(placement, settings.copies) if "copy" in settings.on_fault else {}
    copied = None
    if settings.copied_blocks and copies:
        copied = frozenset(expected_loss.worst(copies, settings.copied_blocks))
        copies = {block: nodes for block, nodes in copies.items() if block in copied}
    ladder = () if settings.on_fault == "stop" else tuple(settings.on_fault.split(","))
    most = depth // 3 if settings.max_skipped < 0 else settings.max_skipped
    policy = Policy(ladder, most, never_skip, settings.copies, copied)
    standby, vendor = NOBODY, handshake.link.vendor
    if settings.standby and vendor != "Open MPI":
        say(f"no node stands by for the end user: {vendor} ends all ranks with rank 0 (--standby 0)")
    elif settings.standby:
        standby = standby_of(hellos, free, placement, model.layer_bytes)
    if standby != NOBODY:  # it has what the end user has
        own = placement[standby]
        copies = {
            block: (*nodes, standby)
            if END_USER in nodes and block not in own and standby not in nodes
            else nodes
            for block, nodes in copies.items()
        }
    return Layout(hellos, free, placement, copies, policy, standby)


def standby_of(
    hellos: Mapping[int, Hello], free: Mapping[int, float], placement: Placement, layer_bytes: float
) -> int:
    """Return the node that is to take over from the end user: a spare, or the worker with most room; the
    first one, of whose layers the end user has a copy, last. NOBODY where none has room for the end user's
    layers, or all of the model's files, or where a node that is cut off could not be outvoted."""
    if len(hellos) < FEWEST:
        return NOBODY
    without = "no node stands by for the end user: {}; if that one dies, the run ends (--standby 0)"
    if any(hello.has_a_part for hello in hellos.values()):
        say(without.format("a part of the model's files was delivered to each"))
        return NOBODY
    held = {node: layer_bytes * sum(map(len, placement[node])) for node in hellos}
    needed = held[END_USER] + PARTS_BYTES
    room = {node: free[node] - held[node] for node in hellos if node != END_USER}
    able = [node for node in room if room[node] >= needed]
    if not able:
        say(without.format(f"none has {needed / 1e6:.0f} MB free beside its own layers"))
        return NOBODY
    return max(able, key=lambda node: (not placement[node], node != 1, room[node], node))


def cluster_of(layout: Layout, patches: PatchInfo | None, layer_bytes: float) -> Cluster:
    """Return the cluster as it starts, with no node missing."""
    return Cluster(
        layout.placement,
        layout.copies,
        layout.policy,
        {node: free / layer_bytes for node, free in layout.free_bytes.items()},
        patches=patches.patched if patches else frozenset(),
        standby=layout.standby,
        patchers=frozenset(
            node for node, hello in layout.hellos.items() if patches and hello.patches == patches.digest
        ),
    )
