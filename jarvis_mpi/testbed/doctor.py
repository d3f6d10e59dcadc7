"""python -m jarvis_mpi doctor:
checks every host before a run, or one model, and prints a line for each thing to mend.

With --hostfile each host is asked by ssh what it has (probe.py); then mpirun measures the links between all
pairs. Without, only the model is checked, every byte of it: model/integrity.py.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..common.errors import Unservable
from ..common.layers import END_USER
from ..common.options import PLAN, Parser, add_options, given_options, preparing
from ..common.settings import Settings, flag
from ..model import checkpoint, safetensors_files
from ..net import hostfile
from ..protocol import placement as blocks
from ..record.links_file import Measured
from .link_rates import measured_links, slow_links
from .probe import ask_all

PROCESS_BYTES = 0.36e9  # of a rank beside its weights (`python -m benchmarks.memory.peaks`)
ALSO = ("slowest_link_kbit_s", "start_timeout_s")  # of a run's options, beside PLAN
# What needs hosts: the name among the given options, and the option.
OF_HOSTS = {"measure": "--links", "file": "--log"} | {
    name: flag(name) for name in ("split", "end_user_layers", "copies", "slowest_link_kbit_s")
}
TEACHES = (
    "Look at things before a run, and say in a line each what to mend. With --hostfile FILE: at every host "
    "of it, its memory, versions, model and links. With --model MODEL and no --hostfile: at that model "
    "alone, a folder, a GGUF file or a bundled name: whether its files are whole and as they were made, "
    "whether each number in them is a number, and whether its config and its tokenizer can be used. A run's "
    "other options may stand there too, and change nothing. The exit status is 0 where nothing is to be "
    "mended, 1 where something is, 2 where it cannot look."
)
CLOCK_S = 5.0  # how far a host's time of day may be off, for logs that are read together


def problems(
    hosts: Sequence[str],
    answers: Mapping[str, Any],
    needs: Mapping[str, float],
    layers: Mapping[str, set[int]],
) -> Iterator[str]:
    """Yield a line for each thing to mend. `needs`: each host's bytes; `layers`: those that it is to run."""
    mine = answers[hosts[0]]
    for host in dict.fromkeys(hosts):
        answer = answers[host]
        if isinstance(answer, str):
            yield answer
        if isinstance(answer, str) or isinstance(mine, str):
            continue
        for name, version in mine["versions"].items():
            if answer["versions"].get(name) != version:
                yield (
                    f"{host} has {name} {answer['versions'].get(name)}, {hosts[0]} {version}: install the "
                    "same there"
                )
        if answer["wrong_model"]:
            yield f"{host}: {answer['wrong_model']}"
        elif answer["fingerprint"] != mine["fingerprint"]:
            yield (
                f"{host} has another model (fingerprint {answer['fingerprint']}, "
                f"{hosts[0]}: {mine['fingerprint']}): copy the same there, or stage-model"
            )
        elif answer["layers"] is not None and (lacking := sorted(layers[host] - set(answer["layers"]))):
            yield (
                f"{host} lacks layer {', '.join(map(str, lacking))} of the model: python -m jarvis_mpi "
                "stage-model for this split"
            )
        if answer["free_bytes"] < needs[host]:
            yield (
                f"{host} has {answer['free_bytes'] / 1e9:.2f} GB of memory free, its ranks need "
                f"{needs[host] / 1e9:.2f} GB: give it fewer layers (--split memory), or more hosts"
            )
        if answer["lacks"]:
            yield f"{host}: {answer['lacks']}"
        off_s = answer["time"] - (answer["asked_at"] + answer["heard_at"]) / 2
        if abs(off_s) > CLOCK_S + (answer["heard_at"] - answer["asked_at"]) / 2:
            yield (
                f"{host}'s time of day is off by {off_s:+.0f} s: its logs will not fit the others' "
                "(timedatectl set-ntp true)"
            )


def show(
    hosts: Sequence[str], answers: Mapping[str, Any], needs: Mapping[str, float], links: Sequence[Measured]
) -> None:
    from rich.markup import escape
    from rich.table import Table

    from ..common.console import console

    terminal = console(sys.stdout, markup=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("host", "ranks", "cores", "free GB", "needs GB", "torch", "model"):
        table.add_column(column, justify="left" if column in ("host", "torch", "model") else "right")
    for host, count in Counter(hosts).items():
        answer = answers[host]
        if not isinstance(answer, str):
            table.add_row(
                host,
                str(count),
                str(answer["cores"]),
                f"{answer['free_bytes'] / 1e9:.1f}",
                f"{needs[host] / 1e9:.1f}",
                escape(answer["versions"]["torch"]),
                escape(answer["fingerprint"]) or "-",
            )
    terminal.print(table)
    if not links:
        return
    names = sorted({link.a for link in links} | {link.b for link in links})
    table = Table(
        title="round trip in ms, below the diagonal: Mbit/s",
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    table.add_column("")
    for node in names:
        table.add_column(hosts[node], justify="right")
    cells = {(link.a, link.b): f"{1e3 * link.round_trip_s:.2f}" for link in links}
    cells |= {(link.b, link.a): f"{link.kbit_s / 1e3:.3g}" for link in links}
    for row in names:
        table.add_row(hosts[row], *(cells.get((row, column), "") for column in names))
    terminal.print(table)


def planned(
    hosts: Sequence[str], answers: Mapping[str, Any], folder: Path, settings: Settings
) -> tuple[dict[str, float], dict[str, set[int]]]:
    """Compute how many bytes each host needs, and which layers it is to have. Raises Unservable."""
    free = {
        node: answers[host]["free_bytes"] / hosts.count(host)
        for node, host in enumerate(hosts) if not isinstance(answers[host], str)
    }  # fmt: skip
    per_layer = checkpoint.bytes_by_layer(folder)
    placement = blocks.place(
        len(per_layer),
        len(hosts) - 1,
        split=settings.split,
        end_user_layers=settings.end_user_layers,
        free_bytes=free,
    )
    copied = blocks.copies(placement, settings.copies)
    needs: dict[str, float] = dict.fromkeys(hosts, 0.0)
    layers: dict[str, set[int]] = {host: set() for host in hosts}
    weights = sum(path.stat().st_size for path in safetensors_files.weight_files(folder))
    for node, host in enumerate(hosts):
        own = {layer for block in placement[node] for layer in block}
        head = weights - sum(per_layer.values()) if node == END_USER else 0
        needs[host] += PROCESS_BYTES + head + sum(per_layer[layer] for layer in own)
        layers[host] |= own | {layer for block, nodes in copied.items() if node in nodes for layer in block}
    return needs, layers


def look_at_hosts(settings: Settings, path: Path, measure: str = "yes", file: Path | None = None) -> int:
    """Check the hosts and print what is to be mended. -> exit status. Raises Unservable."""
    from ..record import links_file

    before = links_file.usable(file) if file else None
    hosts = hostfile.ranks(path)
    folder = checkpoint.locate(settings.model, print, settings.start_timeout_s, whole=True)
    answers = ask_all(hosts, settings.model)
    needs, layers = planned(hosts, answers, folder, settings)
    found = list(problems(hosts, answers, needs, layers))
    answering = [host for host in dict.fromkeys(hosts) if not isinstance(answers[host], str)]
    links: list[Measured] = []
    if measure == "yes" and len(answering) > 1 and answering[0] == hosts[0]:
        try:
            links = measured_links(answering)
            found += slow_links(answering, links, settings.slowest_link_kbit_s)
        except Unservable as error:
            found.append(str(error))
    show(
        hosts,
        answers,
        needs,
        [link._replace(a=hosts.index(answering[link.a]), b=hosts.index(answering[link.b])) for link in links],
    )
    if file:
        try:
            links_file.write(file, answering, answers, links, before)
        except Unservable as error:
            found.append(str(error))
    for line in found:
        print(line)
    things = "thing" if len(found) == 1 else "things"
    print(f"{len(found)} {things} to mend" if found else "nothing to mend")
    return int(bool(found))


def parser() -> Parser:
    made = preparing("doctor", TEACHES)
    made.add_argument(
        "--hostfile",
        type=Path,
        help="look at these hosts (as mpirun's: rank 0, which is here, first); without it, "
        "at the model here alone",
    )
    made.add_argument(
        "--links", dest="measure", choices=("yes", "no"), default="yes", help="measure the links too"
    )
    made.add_argument(
        "--log",
        dest="file",
        type=Path,
        metavar="FILE.h5",
        help="write what was found, for a run's --links",
    )
    add_options(made, ALSO)
    add_options(made, {each.name for each in fields(Settings)} - {*PLAN, *ALSO, "links", "log"}, shown=False)
    return made


def main(words: Sequence[str]) -> int:
    try:
        options = given_options(parser(), words)
        settings = Settings.of(options).checked()
        if "hostfile" in options:
            own = {name: options[name] for name in ("measure", "file") if name in options}
            return look_at_hosts(settings, options["hostfile"], **own)
        if idle := [option for name, option in OF_HOSTS.items() if name in options]:
            raise Unservable(
                f"{' and '.join(idle)} would change nothing: without --hostfile the doctor looks at the model"
                f" {settings.model} alone"
            )
    except Unservable as error:
        print(error, file=sys.stderr)
        return 2
    from ..model.integrity import check

    return check(settings.model, settings.start_timeout_s)
