"""What tests of whole runs share: a run by the real mpirun, what it says, and that nothing of it is left."""

import atexit
import contextlib
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from places import ROOT

from jarvis_mpi.record.reader import load

MARK = f"jarvis-test-{os.getpid()}"
PROMPT = "Name three animals that live in the sea, and say what each of them eats."
GEMMA = "gemma-3-270m"
# Scripts that draw a record, or some.
ONE_RUN, SEVERAL = (("hops", "timeline"), ("latency", "faults", "compare"))
needs_gemma = pytest.mark.skipif(
    os.environ.get("JARVIS_TEST_GEMMA") != "1",
    reason="JARVIS_TEST_GEMMA=1 is not set: Gemma is fetched only by who accepts its terms",
)

# Of two mpiruns of one user that begin and end at once, one may remove the folder in which the other is about
# to listen.
SESSIONS = tempfile.mkdtemp(prefix="jarvis-")
atexit.register(shutil.rmtree, SESSIONS, ignore_errors=True)


def start(ranks: int, *words: str, before=(), **how) -> subprocess.Popen:
    command = ["timeout", "-k", "5", "150", "mpirun", "-hostfile", "hostfiles/local", "-n", str(ranks)]
    return subprocess.Popen(
        [*command, *before, sys.executable, "-m", "jarvis_mpi", *words],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "JARVIS_TEST": MARK, "TMPDIR": SESSIONS},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how},
    )


def mpirun(ranks: int, *words: str, before=()) -> subprocess.CompletedProcess:
    with start(ranks, *words, before=before) as run:
        stdout, stderr = run.communicate(timeout=180)
    return subprocess.CompletedProcess(run.args, run.returncode, stdout, stderr)


def ask(
    model: Path, *words, ranks=2, cwd=ROOT, env=None, out=subprocess.PIPE, **how
) -> subprocess.CompletedProcess:
    """A run of `model` from any folder, with any standard streams."""
    hosts = str(ROOT / "hostfiles/local")
    limited = ["timeout", "-k", "5", "100", "mpirun", "-hostfile", hosts, "-n", str(ranks)]
    return subprocess.run(
        [*limited, sys.executable, "-m", "jarvis_mpi", "--model", str(model), "--max-new-tokens", "4",
         *words],
        stdout=out, stderr=subprocess.PIPE, cwd=cwd, timeout=130,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "JARVIS_TEST": MARK, "TMPDIR": SESSIONS,
             "PYTHONPATH": str(ROOT), **(env or {})}, **how,
    )  # fmt: skip


def tokens_of(log: Path) -> list[int]:
    return load(log).tokens["token"].tolist()


def words_for(folder: Path, log: Path, *more: str) -> list[str]:
    return ["--model", str(folder), "--prompt", "abc", "--max-new-tokens", "8", "--log", str(log), *more]


def processes(*names: str, rank: int | None = None) -> list[int]:
    """What goes on of this test's runs, told from others by a word in its environment: all of it, or those of
    these names, or of this rank."""
    of_rank = f"PMIX_RANK={rank}".encode()
    return [
        process
        for process, words in environments()
        if f"JARVIS_TEST={MARK}".encode() in words
        and (not names or name_of(process) in names)
        and (rank is None or of_rank in words)
    ]


def name_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return ""


def kill(found: Sequence[int]) -> None:
    assert found
    for process in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def assert_nothing_is_left() -> None:
    """No process of ours runs on for more than seconds."""
    end = time.monotonic() + 10
    while left := processes():
        assert time.monotonic() < end, left
        time.sleep(0.1)


def left_behind() -> set[str]:
    """What MPI keeps in files and nobody uses: memory that ranks shared, folders of jobs that are over."""
    used = set[str]()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            used |= {word for word in maps.read_text().split() if word.startswith("/dev/shm/")}
    segments = {str(path) for path in Path("/dev/shm").glob("sm_segment.*")} - used
    return segments | {str(path) for path in Path(SESSIONS).glob("ompi.*")}


def environments() -> Iterator[tuple[int, list[bytes]]]:
    """Every process that may be looked at, and the words of its environment."""
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            yield int(environment.parent.name), environment.read_bytes().split(b"\0")


def sentence(done: subprocess.CompletedProcess) -> str:
    """What the user reads when a run was refused: one line, no traceback, nothing on standard output."""
    said = done.stderr.decode()
    assert done.returncode not in (0, 124, 137), said
    assert "Traceback" not in said
    assert done.stdout == b""
    assert_nothing_is_left()
    progress = "first use of this model"
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith(progress)]
    assert len(lines) == 1, said
    return lines[0]


def script(name: str, *words: str | Path) -> str:
    """Run analysis/NAME.py here. -> what it exits with: '' or its sentence."""
    path, argv = list(sys.path), sys.argv
    sys.argv = [f"{name}.py", *map(str, words)]
    sys.path.insert(0, str(ROOT / "analysis"))
    try:
        runpy.run_path(str(ROOT / "analysis" / f"{name}.py"), run_name="__main__")
    except SystemExit as error:
        return str(error.code or "")
    finally:
        sys.path[:], sys.argv = path, argv
    return ""


can_mount = pytest.mark.skipif(
    os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0,
    reason="a full disk is a small tmpfs, which only root can mount",
)


def fit_it(*words: str, command: str = "fit-patches") -> subprocess.CompletedProcess:
    return subprocess.run(
        ["timeout", "-k", "5", "120", sys.executable, "-m", "jarvis_mpi", command, *words],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


def assert_refused(said: str, model: Path, out: Path, *words: str, command: str = "fit-patches") -> None:
    done = fit_it("--model", str(model), "--out", str(out), *words, command=command)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def planted(folder, name, source):
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(source)
    about = folder / f"{name}-99.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 99.0\n")
    return folder


WRITER = """
import itertools, os, sys
from pathlib import Path
from jarvis_mpi.record.writer import Record
from jarvis_mpi.protocol.events import Token
from jarvis_mpi.protocol.wire import Kind, Message, StageRun
from jarvis_mpi.common.process_identity import named
record = Record(Path(sys.argv[1]), {"prompt": "hello", "writer": named(os.getpid())}, 0.0, None)
record.asked(0.0, 0, 0, "hello", [1, 2], 0)
for step in itertools.count():
    runs = (StageRun(1, range(1, 4), 1, .1, .2, .3, 999),)
    piece = Message(Kind.STEP, step=step, start=step, rows=1, runs=runs)
    record.write(Token(0, step, step + 5, 42, 1.0 + step, 0.5, 0.1, (piece,)))
    print(step, flush=True)
"""


def events(log: Path, name: str) -> list[str]:
    """The text of each event of that name in a record; of an answer, how it ended."""
    return [
        event.payload["ended"] if name == "answered" else event.text
        for event in load(log).events
        if event.event == name
    ]


def python(*words, env=None, **how):
    """A Python that no launcher has started."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PMI", "OMPI_COMM"))}
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env={**clean, **(env or {})}, capture_output=True, text=True,
        timeout=90, **how
    )  # fmt: skip
