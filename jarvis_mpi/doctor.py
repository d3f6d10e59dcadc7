"""python -m jarvis_mpi doctor: look at every host before a run, or at one model, and say in a line each what to mend.

With --hostfile each host says by ssh what it is and has (`probe`); then mpirun measures the links between all pairs.
Without, the model alone is checked, every byte of it: doctor_model.py.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import blocks, hostfile, models, on_host
from .boundary import guarded
from .crew import END_USER
from .json_form import parsed
from .link import Unservable
from .links import Measured
from .process import machine
from .record import check_path
from .roll import hello
from .settings import Settings, plan_words
from .setup import no_agent, without_fault_tolerance

PROBE_S = 60.0  # for a host's answer: importing takes a while from an SD card
LINKS_S = 300.0
LINKS = [("a", "u2"), ("b", "u2"), ("round_trip_s", "f8"), ("kbit_s", "f8")]  # in the file of --log
PROCESS_BYTES = 0.36e9  # of a rank beside its weights (`python benchmarks/memory.py`)
TEACHES = (
    "Look at things before a run, and say in a line each what to mend. With --hostfile FILE: at every host of it, its memory,"
    " versions, model and links. With --model MODEL and no --hostfile: at that model alone, a folder, a GGUF file or a bundled"
    " name: whether its files are whole and as they were made, whether each number in them is a number, and whether its config"
    " and its tokenizer can be used. The exit status is 0 where nothing is to be mended, else 1."
)
CLOCK_S = 5.0  # how far a host's time of day may be off, for logs that are read together


def probe(model: str) -> None:
    """What this host says of itself, as a line of JSON."""
    said: dict[str, Any] = {"lacks": without_fault_tolerance("Open MPI") or no_agent(), "wrong_model": ""}
    fingerprint = ""
    try:
        folder = models.locate(model, fetch=False)
        fingerprint, names = models.fingerprint(folder), models.delivered(folder)
        said["layers"] = sorted({models.layer_of(name) for name in names} - {None}) if names else None
    except Unservable as error:
        said["wrong_model"] = str(error)
    there = hello(0, fingerprint)
    print(json.dumps({**said, **vars(there), "machine": machine(), "time": time.time()}))


def ask(host: str, model: str, answers: dict[str, Any]) -> None:
    asked_at = time.time()
    process = on_host.start(host, "probe", model, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        out, errors = process.communicate(timeout=PROBE_S)
        answers[host] = {**json.loads(out.splitlines()[-1]), "asked_at": asked_at, "heard_at": time.time()}
    except subprocess.TimeoutExpired:
        process.kill()
        answers[host] = f"does not answer within {PROBE_S:g} s: is it up, and does ssh {host} work?"
    except (ValueError, IndexError):
        last = (errors.decode(errors="replace").strip().splitlines() or ["it says nothing"])[-1]
        cannot_come = process.returncode == 255
        what = (
            "cannot be reached by ssh" if cannot_come else "cannot run python -m jarvis_mpi from here's path"
        )
        answers[host] = f"{what}: {last}"


def ask_all(hosts: Sequence[str], model: str) -> dict[str, Any]:
    """host -> what it says, or why it does not, as text."""
    answers: dict[str, Any] = {}
    threads = [threading.Thread(target=ask, args=(host, model, answers), daemon=True) for host in set(hosts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def problems(
    hosts: Sequence[str], said: Mapping[str, Any], needs: Mapping[str, float], layers: Mapping[str, set[int]]
) -> Iterator[str]:
    """A line for each thing to mend. `needs`: a host's bytes; `layers`: those that it is to run."""
    mine = said[hosts[0]]
    for host in dict.fromkeys(hosts):
        its = said[host]
        if isinstance(its, str):
            yield f"{host} {its}"
        if isinstance(its, str) or isinstance(mine, str):
            continue
        for name, version in mine["versions"].items():
            if its["versions"].get(name) != version:
                yield f"{host} has {name} {its['versions'].get(name)}, {hosts[0]} {version}: install the same there"
        if its["wrong_model"]:
            yield f"{host}: {its['wrong_model']}"
        elif its["fingerprint"] != mine["fingerprint"]:
            yield f"{host} has another model (fingerprint {its['fingerprint']}, {hosts[0]}: {mine['fingerprint']}): copy the same there, or stage-model"
        elif its["layers"] is not None and (lacking := sorted(layers[host] - set(its["layers"]))):
            yield f"{host} lacks layer {', '.join(map(str, lacking))} of the model: python -m jarvis_mpi stage-model for this split"
        if its["free_bytes"] < needs[host]:
            yield (
                f"{host} has {its['free_bytes'] / 1e9:.2f} GB of memory free, its ranks need {needs[host] / 1e9:.2f} GB:"
                " give it fewer layers (--split memory), or more hosts"
            )
        if its["lacks"]:
            yield f"{host}: {its['lacks']}"
        off_s = its["time"] - (its["asked_at"] + its["heard_at"]) / 2
        if abs(off_s) > CLOCK_S + (its["heard_at"] - its["asked_at"]) / 2:
            yield f"{host}'s time of day is off by {off_s:+.0f} s: its logs will not fit the others' (timedatectl set-ntp true)"


def measured_links(hosts: Sequence[str]) -> list[Measured]:
    """Of those that answer. Raises Unservable."""
    with tempfile.NamedTemporaryFile("w", suffix=".hostfile") as file:
        file.write("".join(f"{host} slots=1\n" for host in hosts))
        file.flush()
        words = [
            "mpirun",
            "-hostfile",
            file.name,
            "-n",
            str(len(hosts)),
            sys.executable,
            "-m",
            "jarvis_mpi.links",
        ]
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, timeout=LINKS_S, stdin=subprocess.DEVNULL
            )
            return [Measured(*row) for row in json.loads(done.stdout.splitlines()[-1])]
        except subprocess.TimeoutExpired:
            raise Unservable(f"links: mpirun did not end within {LINKS_S:g} s") from None
        except (ValueError, IndexError):
            last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
            raise Unservable(f"links: mpirun cannot start on all hosts: {last}") from None


def slow_links(hosts: Sequence[str], links: Sequence[Measured], slowest_kbit_s: float) -> Iterator[str]:
    for link in links:
        name = f"the link {hosts[link.a]} - {hosts[link.b]}"
        if math.isnan(link.kbit_s):
            yield f"{name} carries nothing: do firewalls let MPI's ports through?"
        elif link.kbit_s < slowest_kbit_s:
            yield f"{name} carries {link.kbit_s / 1e3:.2f} Mbit/s: say --slowest-link-kbit-s {link.kbit_s / 2:.0f} to the run"


def show(
    hosts: Sequence[str], said: Mapping[str, Any], needs: Mapping[str, float], links: Sequence[Measured]
) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 200
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("host", "ranks", "cores", "free GB", "needs GB", "torch", "model"):
        table.add_column(column, justify="left" if column in ("host", "torch", "model") else "right")
    for host, count in Counter(hosts).items():
        its = said[host]
        if not isinstance(its, str):
            table.add_row(host, str(count), str(its["cores"]), f"{its['free_bytes'] / 1e9:.1f}", f"{needs[host] / 1e9:.1f}",
                          its["versions"]["torch"], its["fingerprint"] or "-")  # fmt: skip
    console.print(table)
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
    console.print(table)


def write(path: Path, hosts: Sequence[str], said: Mapping[str, Any], links: Sequence[Measured]) -> None:
    """The same for programs: what each host said, and the matrix."""
    import numpy as np

    from . import hdf5

    with hdf5.made(path) as file:
        file.create_dataset("links", data=np.array([tuple(link) for link in links], LINKS))
        file.attrs["hosts"] = json.dumps(list(hosts))
        file.attrs["said"] = json.dumps(said)


def links_in(path: Path) -> dict[frozenset[str], list[float | None]]:
    """What `write` wrote: two host names -> round trip in s, kbit/s; None where nothing went through. Raises Unservable."""
    import numpy as np

    from . import hdf5

    with guarded(f"--links {path} is not what doctor --log writes"), hdf5.read(path) as file:
        rows, told = hdf5.rows(file, "links", np.dtype(LINKS)), hdf5.attributes(file)
        hosts = parsed(str(told["hosts"]), [str], "its attribute hosts")
        said = parsed(str(told["said"]), {str: (str, {"host": str})}, "its attribute said")
        names = [said[host]["host"] for host in hosts]
        return {
            frozenset((names[row["a"]], names[row["b"]])): [
                figure if math.isfinite(figure) and figure >= 0 else None
                for figure in (float(row["round_trip_s"]), float(row["kbit_s"]))
            ]
            for row in rows
        }


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m jarvis_mpi doctor", description=TEACHES)
    parser.add_argument(
        "--hostfile",
        type=Path,
        help="look at these hosts (as mpirun's: rank 0, which is here, first); without it, at the model here alone",
    )
    parser.add_argument("--links", choices=("yes", "no"), default="yes", help="measure the links too")
    parser.add_argument("--log", type=Path, metavar="FILE.h5", help="write what was found, for predict.py")
    parser.add_argument(
        "--slowest-link-kbit-s",
        type=float,
        default=Settings.slowest_link_kbit_s,
        help="what the run will be told of its links",
    )
    plan_words(parser)
    asked, _ = parser.parse_known_args(words)  # a run's other options change nothing here
    if not asked.hostfile:
        from .doctor_model import check

        return check(asked.model, Settings().start_timeout_s)
    try:
        if asked.log:
            check_path(asked.log, anew=False)
        hosts = hostfile.ranks(asked.hostfile)
        folder = models.locate(asked.model, print, Settings().start_timeout_s, whole=True)
        depth, said = len(models.bytes_by_layer(folder)), ask_all(hosts, asked.model)
        free = {
            node: said[host]["free_bytes"] / hosts.count(host)
            for node, host in enumerate(hosts) if not isinstance(said[host], str)
        }  # fmt: skip
        placement = blocks.place(
            depth, len(hosts) - 1, split=asked.split, end_user_layers=asked.end_user_layers, free_bytes=free
        )
    except Unservable as error:
        print(error, file=sys.stderr)
        return 2
    copied = blocks.copies(placement, asked.copies)
    needs: dict[str, float] = dict.fromkeys(hosts, 0.0)
    layers: dict[str, set[int]] = {host: set() for host in hosts}
    weights = sum(path.stat().st_size for path in models.weight_files(folder))
    per_layer = models.bytes_by_layer(folder)
    for node, host in enumerate(hosts):
        own = {layer for block in placement[node] for layer in block}
        head = weights - sum(per_layer.values()) if node == END_USER else 0
        needs[host] += PROCESS_BYTES + head + sum(per_layer[layer] for layer in own)
        layers[host] |= own | {layer for block, nodes in copied.items() if node in nodes for layer in block}
    found = list(problems(hosts, said, needs, layers))
    answering = [host for host in dict.fromkeys(hosts) if not isinstance(said[host], str)]
    links: list[Measured] = []
    if asked.links == "yes" and len(answering) > 1 and answering[0] == hosts[0] and shutil.which("mpirun"):
        try:
            links = measured_links(answering)
            found += slow_links(answering, links, asked.slowest_link_kbit_s)
        except Unservable as error:
            found.append(str(error))
    show(
        hosts,
        said,
        needs,
        [link._replace(a=hosts.index(answering[link.a]), b=hosts.index(answering[link.b])) for link in links],
    )
    if asked.log:
        write(asked.log, answering, said, links)
    for line in found:
        print(line)
    print(f"{len(found)} things to mend" if found else "nothing to mend")
    return int(bool(found))
