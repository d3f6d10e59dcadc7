"""Make a Slurm of one's own on one machine (Linux, root, Debian's packages), to rehearse a job and to break
it.

Every node is a real slurmd with a spool of its own; all have this machine's name, address and files. A munged
and a slurmctld of its own listen on this machine alone.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil

from ..common.errors import Unservable
from .own_processes import lacking, until

STATE = Path("/run/jarvis_slurm")
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")
PACKAGES = "slurm-wlm munge libpmix2"
FIRST_PORT = 16910
WAIT_S = 30.0
CONF = """
ClusterName=jarvis
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={state}/munge.socket
StateSaveLocation={state}/ctld
SlurmdSpoolDir={state}/%n
SlurmdPidFile={state}/%n.pid
SlurmctldPidFile={state}/ctld.pid
SlurmdLogFile={state}/%n.log
SlurmctldLogFile={state}/ctld.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/linear
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=60
SlurmctldTimeout=10
KillWait=3
JobRequeue=1
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2
NodeName=jn[0-{last}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{end}] CPUs=1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """'' if a cluster can be made here, else one sentence that says what is in the way."""
    return lacking("a Slurm of one's own needs", NEEDED, PACKAGES)


def up(count: int) -> dict[str, str]:
    """Nodes jn0 to jn{count - 1}. -> what must stand in the environment of sbatch and the like."""
    down()
    STATE.mkdir(mode=0o755)
    (STATE / "ctld").mkdir()
    (STATE / "key").write_bytes(os.urandom(1024))
    (STATE / "key").chmod(0o400)
    files = {
        "socket": "munge.socket",
        "key-file": "key",
        "pid-file": "munge.pid",
        "log-file": "munge.log",
        "seed-file": "seed",
    }
    start(
        "munged", "--foreground", "--force", *(f"--{option}={STATE / file}" for option, file in files.items())
    )
    (STATE / "slurm.conf").write_text(CONF.format(
        state=STATE, port=FIRST_PORT, host=socket.gethostname().partition(".")[0], last=count - 1,
        first=FIRST_PORT + 1, end=FIRST_PORT + count,
    ))  # fmt: skip
    start("slurmctld", "-D", "-c")
    for node in range(count):
        boot(node)
    end = time.monotonic() + WAIT_S
    while (idle := states().count("idle")) < count:
        if time.monotonic() > end:
            raise Unservable(f"{idle} of {count} nodes are idle after {WAIT_S:g} s: see {STATE}/*.log")
        time.sleep(0.3)
    return {"SLURM_CONF": f"{STATE}/slurm.conf"}


def environment() -> dict[str, str]:
    return {**os.environ, "SLURM_CONF": f"{STATE}/slurm.conf"}


def start(*words: str | Path) -> subprocess.Popen:
    log = (STATE / f"{words[0]}.out").open("a")
    made = subprocess.Popen(
        [*map(str, words)],
        env=environment(),
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    with (STATE / "pids").open("a") as pids:
        pids.write(f"{made.pid}\n")
    if words[0] == "munged":
        sentence = f"munged has not come up after {WAIT_S:g} s: see {log.name}"
        until((STATE / "munge.socket").exists, sentence, WAIT_S)
    return made


def boot(node: int) -> None:
    (STATE / f"jn{node}").mkdir(exist_ok=True)
    made = start("slurmd", "-D", "-c", "-N", f"jn{node}")
    (STATE / f"jn{node}.slurmd").write_text(str(made.pid))


def kill(node: int) -> None:
    """The slurmd and everything that a job has on the node, which a slurmstepd of that node has begun."""
    if not (STATE / f"jn{node}.slurmd").is_file():
        raise Unservable(f"node {node} is not up: python -m jarvis_mpi rehearse slurm up")
    doomed = []
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "slurmstepd" and is_of(process, node):
            doomed += [process, *process.children(recursive=True)]
    with contextlib.suppress(psutil.NoSuchProcess):
        doomed.insert(0, psutil.Process(int((STATE / f"jn{node}.slurmd").read_text())))
    for process in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)  # none may see another die first
    for process in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def is_of(step: psutil.Process, node: int) -> bool:
    """A stepd's log is its node's."""
    with contextlib.suppress(psutil.Error, OSError):
        return any(Path(file.path).name == f"jn{node}.log" for file in step.open_files())
    return False


def states() -> list[str]:
    words = ["sinfo", "-h", "-N", "-o", "%T"]
    return subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=20).stdout.split()


def down() -> None:
    if not STATE.exists():
        return
    if (STATE / "slurm.conf").exists() and shutil.which("scancel"):
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(["scancel", "-u", "root"], env=environment(), capture_output=True, timeout=10)
    doomed = []
    for pid in (STATE / "pids").read_text().split() if (STATE / "pids").exists() else ():
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(pid))
            if process.name() in NEEDED:
                doomed += [*process.children(recursive=True), process]
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "slurmstepd" and any(is_of(process, node) for node in range(100)):
            doomed += [*process.children(recursive=True), process]
    for process in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    shutil.rmtree(STATE)
