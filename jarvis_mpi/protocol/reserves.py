"""Decides who loads what, so that the next fault finds a copy again, and the end user's death a standby."""

from collections.abc import Container, Iterable

from ..common.layers import Block
from .cluster import Cluster
from .election import NOBODY
from .node_state import State


def successor(cluster: Cluster, prepared: Container[int], unable: Container[int]) -> int:
    """The node that is to stand by where none does: one that is `prepared`, a spare, or the one with most
    room. NOBODY: none has room for the end user's layers, or all are `unable`."""
    spares, needed = cluster.spares(), sum(map(len, cluster.end_users_blocks))
    able = {
        node: (node in prepared, node in spares, room, node)
        for node in cluster.holds
        if node != cluster.end_user and node not in unable and cluster.state(node) is State.UP
        if (room := free_layers(cluster, node)) >= needed or node in prepared
    }
    return max(able, key=able.__getitem__, default=NOBODY)


def copies_to_load(
    cluster: Cluster, ordered: Iterable[tuple[int, Block]] = (), unable: Container[tuple[int, Block]] = ()
) -> list[tuple[int, Block]]:
    """(node, block): copies to load so that the next fault finds one again, beside those on order.

    Spares first, then whoever has most room; a node that has no room for a block, or is `unable`, is not
    asked.
    """
    policy = cluster.policy
    if "copy" not in policy.ladder or not policy.copies:
        return []
    orders: list[tuple[int, Block]] = []
    for block, owner in cluster.blocks():
        if block in cluster.end_users_blocks:
            continue  # its standby holds them, or its death is the run's end
        if policy.copied is not None and block not in policy.copied:
            continue
        asked = {node for node, which in (*ordered, *orders) if which == block}
        holders = {owner, *cluster.copies.get(block, ()), *asked}
        well = [node for node in holders if cluster.state(node) is State.UP]
        for _ in range(policy.copies + 1 - len(well)):
            room = {node: free_layers(cluster, node, (*ordered, *orders)) for node in cluster.holds}
            able = [
                node
                for node in cluster.holds
                if node not in holders
                and (node, block) not in unable
                and cluster.state(node) is State.UP
                and room[node] >= len(block)
            ]
            if not able:
                break
            spares = cluster.spares()
            best = max(able, key=lambda node: (node in spares, room[node], node))
            holders.add(best)
            orders.append((best, block))
    return orders


def free_layers(cluster: Cluster, node: int, ordered: Iterable[tuple[int, Block]] = ()) -> float:
    """Room of a node, in layers, beside what it holds and is to load."""
    copied = [block for block, nodes in cluster.copies.items() if node in nodes]
    copied += [block for which, block in ordered if which == node]
    copied += cluster.end_users_blocks if node == cluster.standby else ()
    return cluster.room.get(node, 0.0) - sum(map(len, (*cluster.holds[node], *copied)))
