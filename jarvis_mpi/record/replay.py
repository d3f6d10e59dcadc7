"""python -m jarvis_mpi.record.replay RUN.h5:
makes the decisions of a run once more, from the signs in its record."""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..common.boundary import guarded
from ..common.errors import Unservable
from ..common.layers import block_of, layers
from ..common.output import run
from ..protocol.cluster import Cluster, Hop, Policy
from ..protocol.node_state import Sign
from .reader import load

NEEDED = ("placement", "copies", "policy", "room", "settings")


def cluster_at_start(attributes: Mapping[str, Any]) -> Cluster:
    """Build the cluster from the attributes that a start wrote."""
    policy = attributes["policy"]
    return Cluster(
        {int(node): tuple(map(block_of, held)) for node, held in attributes["placement"].items()},
        {block_of(block): tuple(nodes) for block, nodes in attributes["copies"].items()},
        Policy(
            tuple(policy["ladder"]),
            policy["max_skipped"],
            frozenset(policy["never_skip"]),
            attributes["settings"]["copies"],
            None if policy.get("copied") is None else frozenset(map(block_of, policy["copied"])),
        ),
        {int(node): room for node, room in attributes["room"].items()},
        patches=frozenset(map(block_of, attributes.get("patches", ()))),
        patchers=frozenset(attributes.get("patchers", ())),
    )


def replayed(path: Path) -> Iterator[str]:
    """Yield a line for every event; a route's line says whether it follows from the signs before it."""
    record = load(path)
    for start in record.starts:
        if lacking := [name for name in NEEDED if name not in start]:
            raise Unservable(
                f"{path} was made by a version that did not record {lacking[0]}: it cannot be replayed"
            )
    cluster = cluster_at_start(record.attributes)
    for event in record.events:
        when = f"{event.at_s:9.3f} s  step {event.step:4d}"
        match event.event:
            case "route":
                taken = tuple(
                    Hop(node, range(first, first + n), patch=bool(patch))
                    for node, first, n, *patch in event.payload
                )
                verdict = "as decided" if cluster.route() == taken else f"NOT what follows: {cluster.route()}"
                yield f"{when}  {' > '.join(map(str, taken))}  {verdict}"
            case "copy":
                cluster = cluster.with_copy(event.node, event.block)
                yield f"{when}  node {event.node} holds a copy of {layers(event.block)}"
            case "shrunk":
                yield f"{when}  the communicator has nodes {event.text}"
            case "asked":
                yield f"{when}  asked: {event.payload['prompt']!r}"
            case "answered":
                yield (
                    f"{when}  the answer's end: {event.text if record.schema < 4 else event.payload['ended']}"
                )
            case "resumed":
                cluster = cluster_at_start(event.payload)
                yield f"{when}  resumed by {len(event.payload['hosts'])} nodes"
            case "done" | "ended":
                yield f"{when}  {event.event}  {verdict_on_the_end(cluster, event.payload['sentence'])}"
            case "refused":
                yield f"{when}  line {event.payload['line']} refused: {event.payload['error']}"
            case "takeover":
                cluster = cluster.with_end_user(event.node)
                yield f"{when}  node {event.node} is the end user now"
            case "rerouted" | "words" | "orphaned":
                yield f"{when}  {(event.text.strip().splitlines() or [''])[-1]}"
            case _:
                cluster = cluster.with_event(event.node, Sign[event.event])
                yield f"{when}  node {event.node}: {Sign[event.event].value}"


def verdict_on_the_end(cluster: Cluster, sentence: str) -> str:
    try:
        cluster.route()
        return sentence
    except Unservable as error:
        return f"{sentence}  {'as decided' if str(error) == sentence else f'NOT what follows: {error}'}"


def main() -> str | None:
    parser = argparse.ArgumentParser(prog="python -m jarvis_mpi.record.replay", description=__doc__)
    parser.add_argument(
        "record", type=Path, metavar="RUN.h5", help="what a run left under runs/, or where --log said"
    )
    path = parser.parse_args().record
    try:
        with guarded(f"{path} cannot be replayed"):
            for line in replayed(path):
                print(line)
    except Unservable as error:
        return str(error)
    return None


if __name__ == "__main__":
    run(main)
