"""Finds the runs of this user on this machine: the ranks that one mpirun started."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from ..common.errors import Unservable
from ..common.layers import END_USER
from ..common.options import Parser
from ..net.launch_agents import PROGRAM

SIGNATURE = b"\x89HDF\r\n\x1a\n"  # HDF5's file format, superblock


@dataclass(frozen=True)
class Job:
    """The ranks here of one run. `end_user` writes the `record`: rank 0, or the standby that went on; None
    where neither is here, or that far."""

    ranks: tuple[psutil.Process, ...]
    end_user: psutil.Process | None
    record: Path | None

    def __str__(self) -> str:
        lead = self.end_user or self.ranks[0]
        return f"process {lead.pid}, record {self.record or 'not begun'}"


def jobs() -> list[Job]:
    ranks: dict[str, dict[int, psutil.Process]] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError, KeyError, ValueError):
            if process.uids().real == os.getuid() and PROGRAM in process.cmdline():
                environment = process.environ()
                job, rank = environment["PMIX_NAMESPACE"], int(environment["PMIX_RANK"])
                # A rank's own children have its words and environment, too.
                ranks.setdefault(job, {}).setdefault(rank, process)
    return [job_of(found) for found in ranks.values()]


def job_of(ranks: Mapping[int, psutil.Process]) -> Job:
    records = {rank: record for rank, process in ranks.items() if (record := record_of(process))}
    if not records:
        return Job(tuple(ranks.values()), ranks.get(END_USER), None)
    # An end user before that is not gone yet has a record, too, and writes no more.
    last = max(records, key=lambda rank: (records[rank].stat().st_mtime, rank))
    return Job(tuple(ranks.values()), ranks[last], records[last])


def record_of(process: psutil.Process) -> Path | None:
    """Return the record that the process writes."""
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if descriptor.is_file() and is_hdf5(descriptor):
                    return named(descriptor)
    return None


def named(descriptor: Path) -> Path | None:
    """Return the name that the open file has now: a record is written under another one first."""
    place = descriptor.readlink()
    return next((path for path in place.parent.iterdir() if path.samefile(descriptor)), None)


def is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE


def record_asked(command: str, description: str, words: Sequence[str]) -> str | None:
    """Return the record that the command's `words` name. Raises Unservable, or SystemExit after --help."""
    parser = Parser(prog=f"python -m jarvis_mpi {command}", description=description)
    parser.add_argument("record", nargs="?", metavar="RUN.h5", help="whose; needed where several runs go on")
    return parser.parse_args(list(words)).record


def one_job(record: str | None) -> Job:
    """Return the job that writes `record`, or the only one. Raises Unservable."""
    found = jobs()
    if record is not None:
        mine = [job for job in found if job.record and job.record == Path(record).resolve()]
        if not mine:
            raise Unservable(f"no run of yours on this machine writes {record}")
        return mine[0]
    if not found:
        raise Unservable("no run of yours goes on on this machine")
    if len(found) > 1:
        listed = "; ".join(map(str, found))
        raise Unservable(f"{len(found)} runs of yours go on on this machine: name one's record ({listed})")
    return found[0]
