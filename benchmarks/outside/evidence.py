"""What anybody can see of a run: its records through plain h5py, the process table, memory that has a name.

No code of the program or of other benchmarks is used here, or in auditor.py: a mistake of theirs would hide.
"""

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

MARK = "JARVIS_TEST"  # a variable of each process of a run
LAUNCHER, NOBODY = -1, -2
LOADERS = ("mpirun", "prterun", "prte", "prted")


@dataclass(frozen=True)
class Event:
    """A row of `events`."""

    at_s: float
    step: int
    node: int
    name: str
    first_layer: int
    layers: int
    text: str


@dataclass(frozen=True)
class Row:
    """A row of `tokens`. `layers`: 0 where another end user ran it."""

    sequence: int
    position: int
    step: int
    token: int
    layers: int


@dataclass(frozen=True)
class Answer:
    """A question's answer; `text` is '' while it is under way."""

    prompt: str
    begin: int  # position of its first token
    rows: tuple[Row, ...]
    text: str
    is_answered: bool = True

    @property
    def tokens(self) -> list[int]:
        return [row.token for row in self.rows]


@dataclass
class Record:
    """One HDF5 file."""

    name: str
    attributes: dict[str, Any]
    rows: list[Row]
    events: list[Event]

    def named(self, name: str) -> list[Event]:
        return [event for event in self.events if event.name == name]

    @property
    def end(self) -> str:
        """`done`, `ended`, or '' where its writer was killed."""
        last = self.events[-1].name if self.events else ""
        return last if last in ("done", "ended") else ""

    def answers(self) -> list[Answer]:
        """Return the answers, in the order in which they were asked."""
        asked, found = self.named("asked"), []
        texts: dict[int, list[tuple[int, str]]] = {}
        for event in self.named("answered"):
            said = json.loads(event.text)
            texts.setdefault(said["sequence"], []).append((event.step, said["text"]))
        for place, event in enumerate(asked):
            said = json.loads(event.text)
            sequence, begin = said["sequence"], len(said["ids"])
            later = [json.loads(other.text) for other in asked[place + 1 :]]
            ends = [len(other["ids"]) for other in later if other["sequence"] == sequence]
            end = min(ends, default=1 << 40)
            rows = tuple(row for row in self.rows if row.sequence == sequence and begin <= row.position < end)
            before = sum(json.loads(other.text)["sequence"] == sequence for other in asked[:place])
            own = texts.get(sequence, [])[before : before + 1]
            found.append(Answer(said["prompt"], begin, rows, own[0][1] if own else "", bool(own)))
        return found


@dataclass
class Strike:
    """A fault that was brought on. `node`: LAUNCHER for mpirun; `state`: what stood of the run then."""

    kind: str  # kill, stop, stop for good, port
    target: str  # worker, end user, standby, successor, launcher
    moment: str
    node: int
    at_s: float  # since exec
    lasts_s: float = 0.0
    before_ready: bool = False


@dataclass
class Seen:
    """What was seen of a run."""

    stdout: bytes
    stderr: str
    status: int | None
    records: list[Record]
    strikes: list[Strike]
    left: list[str] = field(default_factory=list)  # after its end: processes, memory, files
    longest_silence_s: float = 0.0
    limit: str = ""  # which one it was ended at
    took_s: float = 0.0


def read_record(path: Path) -> Record | None:
    """Read a record, also while it grows or after its writer was killed; None where it has no tables yet."""
    try:
        with h5py.File(path, "r", swmr=True, locking=False) as file:
            text = file["text"][:].tobytes()
            rows = [
                Row(*(int(row[name]) for name in ("sequence", "position", "step", "token", "layers")))
                for row in file["tokens"][:]
            ]
            events = [
                Event(
                    float(row["at_s"]), int(row["step"]), int(row["node"]), row["event"].decode(),
                    int(row["first_layer"]), int(row["layers"]),
                    text[int(row["text_at"]) : int(row["text_at"]) + int(row["text_bytes"])].decode(),
                )
                for row in file["events"][:]
            ]  # fmt: skip
            attributes = {name: plain(value) for name, value in file.attrs.items()}
    except (OSError, KeyError, RuntimeError):
        return None
    return Record(path.name, attributes, rows, events)


def plain(value: object) -> object:
    """Parse an attribute that is JSON."""
    if isinstance(value, str) and value[:1] in "{[":
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return value


def variables(process: int) -> Mapping[str, str]:
    """Return a process's environment; nothing where it is gone."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        return dict(word.decode(errors="replace").partition("=")[::2] for word in words)
    return {}


def processes(mark: str) -> dict[int, str]:
    """Return the run's processes, with their names and states; no zombies."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            if f"\0{MARK}={mark}\0".encode() in b"\0" + (path / "environ").read_bytes():
                name, _, rest = (path / "stat").read_text().rpartition(")")
                if rest.split()[0] not in "ZX":
                    found[int(path.name)] = f"{name.partition('(')[2]} {rest.split()[0]}"
    return found


def ranks(mark: str) -> dict[int, int]:
    """node -> process, of the ranks; LAUNCHER -> mpirun's."""
    found: dict[int, int] = {}
    for process, name in processes(mark).items():
        if name.split()[0] in LOADERS:
            found[LAUNCHER] = min(process, found.get(LAUNCHER, process))
        elif (rank := variables(process).get("PMIX_RANK", "")).isdecimal():
            found[int(rank)] = min(process, found.get(int(rank), process))
    return found


def memory_of(run: Iterable[int]) -> set[Path]:
    """Return the files in /dev/shm that these processes have in their memory."""
    found = set()
    for process in run:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{process}/maps").read_text().split()
            found |= {Path(word) for word in words if word.startswith("/dev/shm/")}
    return found


def left_over(mark: str, memory: Iterable[Path], temporary: Path) -> list[str]:
    """Return what is left of a run: processes, memory, files in its TMPDIR; not a library's cache."""
    found = [f"still running: {process} {name}" for process, name in sorted(processes(mark).items())]
    found += [f"left in /dev/shm: {path.name}" for path in sorted(memory) if path.exists()]
    files = [path.name for path in sorted(temporary.iterdir()) if not path.name.startswith("torchinductor")]
    return found + [f"left in TMPDIR: {name}" for name in files]
