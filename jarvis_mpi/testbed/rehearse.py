"""python -m jarvis_mpi rehearse:
hosts and a Slurm of one's own on one machine, to rehearse a testbed and to break it."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..common.errors import Unservable
from ..common.options import Parser
from . import own_hosts, own_links, own_slurm
from .own_processes import address, busy, command, every_host, kill, name, processes

TEACHES = """Make a testbed on this machine, and break it (Linux, root).

hosts: each is a network namespace with a real sshd, so that mpirun reaches it as it would a machine.
slurm: its nodes are real slurmds.
Nothing leaves this machine; down removes everything.
"""
OF_HOSTS = (
    "Host 0 (jv0) is where you sit, jv1 and so on are the others; the file system is shared, "
    "as if the same were installed everywhere. Needs apt-get install openssh-server iproute2 util-linux."
)
EXAMPLE = """a run over five hosts, of which one dies:
  python -m jarvis_mpi rehearse hosts up 4
  python -m jarvis_mpi rehearse hosts run 0 \\
      mpirun -hostfile /run/jarvis_hosts/hostfile -n 5 python -m jarvis_mpi --prompt "..."
  python -m jarvis_mpi rehearse hosts kill 2        (in another terminal, meanwhile)
  python -m jarvis_mpi rehearse hosts down
"""
OF_SLURM = (
    "Nodes are jn0, jn1 and so on; all have this machine's name, address and files."
    f" Needs apt-get install {own_slurm.PACKAGES}."
)


def parser() -> Parser:
    made = Parser(
        prog="python -m jarvis_mpi rehearse", description=TEACHES, epilog=EXAMPLE, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    kinds = made.add_subparsers(dest="kind", required=True, metavar="hosts|slurm")
    add_hosts(kinds.add_parser("hosts", help="hosts, each with an sshd", description=OF_HOSTS))
    add_slurm(kinds.add_parser("slurm", help="a Slurm of some nodes", description=OF_SLURM))
    return made


def add_hosts(made: argparse.ArgumentParser) -> None:
    made.set_defaults(missing=own_hosts.missing)
    add = adder(made)
    add("up", hosts_up, "make jv0, where you sit, and jv1 .. jvN; print the hostfile's path", N=int)
    add("run", run_on, "run COMMAND on a host, in this folder, with this environment", HOST=int, COMMAND=str)
    add("list", list_hosts, "each host's name and address, and what runs there")
    each: dict[str, tuple[Callable[[int], None], str]] = {
        "cut": (own_links.cut, "make its link silent from now on; nobody is told"),
        "mend": (own_links.mend, "end what cut has begun"),
        "kill": (kill, "kill every process on it at once; its link stays"),
        "off": (own_hosts.off, "power off: cut, then kill"),
        "boot": (own_hosts.boot, "bring a killed host back, mended, with sshd and nothing else"),
    }
    for word, (does, about) in each.items():
        add(word, for_each(does if word == "boot" else of_one_that_is_up(does)), about, HOSTS=int)
    add(
        "rate",
        own_links.rate,
        'limit its link, both ways: 5mbit; "none" takes the limit away',
        HOST=int,
        LIMIT=str,
    )
    add(
        "air", own_links.air,
        'delay what leaves it, and lose a share of it: 50 5 is 50 ms and 5 in 100; 0 0 is a wire again',
        HOST=int, DELAY_MS=float, LOSS_PERCENT=float,
    )  # fmt: skip
    add("down", own_hosts.down, "remove everything, whatever state it is in")


def add_slurm(made: argparse.ArgumentParser) -> None:
    made.set_defaults(missing=own_slurm.missing)
    add = adder(made)
    add("up", slurm_up, "make N nodes; print the line that makes sbatch, srun and squeue use them", N=int)
    add("kill", own_slurm.kill, "kill a node's slurmd and all that runs under it, at once", NODE=int)
    add("boot", own_slurm.boot, "bring it back", NODE=int)
    add("down", own_slurm.down, "remove everything")


def adder(made: argparse.ArgumentParser) -> Callable[..., None]:
    """What adds a command: its word, what it calls, what that does, and its words' types."""
    commands = made.add_subparsers(required=True, metavar="COMMAND")

    def add(word: str, does: Callable[..., object], about: str, **types: Callable[[str], Any]) -> None:
        own = commands.add_parser(word, help=about, description=about)
        own.set_defaults(does=does, takes=[*types])
        for argument, kind in types.items():
            many = {"COMMAND": argparse.REMAINDER, "HOSTS": "+"}.get(argument)
            own.add_argument(argument, type=kind, nargs=many)

    return add


def for_each(does: Callable[[int], object]) -> Callable[[list[int]], None]:
    def call(hosts: list[int]) -> None:
        for host in hosts:
            does(host)

    return call


def of_one_that_is_up(does: Callable[[int], object]) -> Callable[[int], object]:
    """Return `does` as what raises Unservable of a host that is not up, where it would do nothing."""

    def call(host: int) -> object:
        if not processes(host):
            raise Unservable(f"{name(host)} is not up (python -m jarvis_mpi rehearse hosts list)")
        return does(host)

    return call


def hosts_up(count: int) -> None:
    print(own_hosts.up(count))


def run_on(host: int, words: list[str]) -> None:
    if not words:
        raise Unservable("there is no COMMAND to run (see python -m jarvis_mpi rehearse hosts run --help)")
    started = command(host, words)
    sys.stdout.flush()
    os.execvp(started[0], started)


def list_hosts() -> None:
    for host in every_host():
        print(name(host), address(host), f"{len(busy(host))} processes" if processes(host) else "down")


def slurm_up(count: int) -> None:
    print("export " + " ".join(f"{name}={value}" for name, value in own_slurm.up(count).items()))


def main(words: Sequence[str]) -> int:
    """-> exit status: 2 for a wrong word, 1 where it cannot be done."""
    try:
        asked = parser().parse_args(words)
    except Unservable as error:
        print(error, file=sys.stderr)
        return 2
    try:
        if why := asked.missing():
            raise Unservable(why)
        asked.does(*(getattr(asked, name) for name in asked.takes))
    except Unservable as error:
        print(error, file=sys.stderr)
        return 1
    return 0
