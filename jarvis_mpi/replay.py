"""python -m jarvis_mpi.replay RUN.h5: the decisions of a run, made once more from the signs in its record."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py

from .crew import Block, Crew, Hop, Policy, Sign
from .link import Unservable
from .record import SCHEMA


def block_of(words: str) -> Block:
    """'4-7' or '4', as crew.layers writes it."""
    first, _, last = words.partition("-")
    return range(int(first), int(last or first) + 1)


def crew_at_start(record: h5py.File) -> Crew:
    said = {
        name: json.loads(record.attrs[name]) for name in ("placement", "copies", "policy", "room", "settings")
    }
    policy = said["policy"]
    return Crew(
        {int(node): tuple(map(block_of, held)) for node, held in said["placement"].items()},
        {block_of(block): tuple(nodes) for block, nodes in said["copies"].items()},
        Policy(
            tuple(policy["ladder"]),
            policy["max_skipped"],
            frozenset(policy["never_skip"]),
            said["settings"]["copies"],
        ),
        {int(node): room for node, room in said["room"].items()},
    )


def replayed(path: Path) -> Iterator[str]:
    """A line for every event; of a route it says whether it follows from the signs before it."""
    with h5py.File(path) as record:
        crew = crew_at_start(record)
        for event in record["events"]:
            name, when = event["event"].decode(), f"{event['at_s']:9.3f} s  step {event['step']:4d}"
            block = range(event["first_layer"], event["first_layer"] + event["layers"])
            match name:
                case "route":
                    taken = tuple(
                        Hop(node, range(first, first + n)) for node, first, n in json.loads(event["text"])
                    )
                    verdict = "as decided" if crew.route() == taken else f"NOT what follows: {crew.route()}"
                    yield f"{when}  {' > '.join(map(str, taken))}  {verdict}"
                case "copy":
                    crew = crew.with_copy(int(event["node"]), block)
                    yield f"{when}  node {event['node']} holds a copy of {block[0]}-{block[-1]}"
                case "shrunk":
                    yield f"{when}  the communicator has nodes {event['text'].decode()}"
                case "asked":
                    yield f"{when}  asked: {json.loads(event['text'])['prompt']!r}"
                case "answered":
                    yield f"{when}  the answer's end: {event['text'].decode()}"
                case "told" | "words":
                    yield f"{when}  {event['text'].decode().strip().splitlines()[-1]}"
                case _:
                    crew = crew.after(int(event["node"]), Sign[name])
                    yield f"{when}  node {event['node']}: {Sign[name].value}"
        if (ended := record.attrs.get("ended", "")) not in ("", "text"):
            try:
                crew.route()
                yield ended
            except Unservable as error:
                yield f"{ended}  {'as decided' if str(error) == ended else f'NOT what follows: {error}'}"


def main() -> str | None:
    parser = argparse.ArgumentParser(prog="python -m jarvis_mpi.replay", description=__doc__)
    parser.add_argument(
        "record", type=Path, metavar="RUN.h5", help="what a run left under runs/, or where --log said"
    )
    path = parser.parse_args().record
    try:
        for line in replayed(path):
            print(line)
    except OSError as error:
        return f"{path} cannot be read as a record: {error}"
    except KeyError as error:
        return f"{path} is no record of schema {SCHEMA}: {error.args[0]}"
    return None


if __name__ == "__main__":
    sys.exit(main())
