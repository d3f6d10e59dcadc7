"""Keeps mpirun's daemons at home: a lost machine is then a lost process, which MPI reports, and not the run's
end.

Open MPI 5.0 starts a daemon on every host, and a daemon that is lost ends all. Two programs change that:

    mpirun --- daemon (per host, here: `daemon`) --- `rank` (here) === ssh === the rank on its host

`python -m jarvis_mpi setup` names the first one to mpirun, which runs it where it would run ssh, so a run on
one machine never comes here. The daemon's environment names the second one, which it runs where it would
run the rank. ssh brings the daemon's own port to the host (-R, on its loopback), the rank's output back, and
a keepalive to the rank, which ends when that stops: nothing is left on a host that was cut off.

Started once for every rank: only the standard library, and little of it.
"""

import contextlib
import itertools
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from typing import NoReturn

from ..common import variables
from ..common.variables import DEBUG
from . import run_key
from .ancestry import LAUNCHERS, launcher_above
from .far_command import (
    CONNECT_S,
    HOST,
    MARKS,
    OURS,
    StartPhase,
    options,
    path_for,
    remote,
    without_prompt,
)
from .last_words import KEEPALIVE, end_with_daemon

ABSENT = "JARVIS_ABSENT"
PROGRAM = "jarvis_mpi"  # among a rank's words; other programs are started too, with no more help than that
AGENTS_OPTIONS = ("-x", "-X")  # which mpirun may put before the host
KEEPALIVE_S = 5.0  # between keepalives
GIVE_UP = "--give-up-s"  # the run's own word, and its default: a silent node may come back until then
GIVE_UP_S = 60.0
LONGER_S = 15.0  # a host may be silent for this longer than GIVE_UP_S until it counts as lost
SHELL_S = 30.0  # for its shell to answer: a start-up file may hang
PORTS = range(20000, 32000)  # below those that kernels give away
BEGIN_S = 90.0  # for Python to come to MPI_Init
TRIES = 5
# Worth another try: a port that is taken, an sshd with too many callers at a time.
PASSING = re.compile("remote port forwarding failed|exchange_identification|Connection (closed|reset) by")
# Passed on without mpirun -x.
PASSED_ON = re.compile(rf"(PMIX|PRTE|OMPI|OPAL)_.*|LD_LIBRARY_PATH|{DEBUG}")


def daemon() -> None:
    """Start a daemon here, as mpirun's agent: `HOST COMMAND...` starts COMMAND, the daemon for HOST."""
    words = sys.argv[1:]
    while words and words[0] in AGENTS_OPTIONS:
        words.pop(0)
    host, *command = words
    if host.startswith("-"):
        end_run(f"{host} would be an option to ssh, not a host: no host of the hostfile may be named so")
    if command[:1] == ["-p"]:
        end_run(
            f"{host} has a port in the hostfile: write it into ~/.ssh/config (Host {host}, Port {command[1]})"
        )
    environment = {
        name: value for name, value in os.environ.items() if OURS.fullmatch(name) or PASSED_ON.match(name)
    }
    environment[HOST] = host
    environment["PRTE_MCA_odls_base_exec_agent"] = sys.argv[0].removesuffix("-daemon") + "-rank"
    # PMIx's other store is memory that a daemon and its ranks share, and so is a topology if there is a hole
    # for it.
    environment |= {"PMIX_MCA_gds": "hash", "PMIX_MCA_pmix_hwloc_hole_kind": "none"}
    folder = run_key.launchers_folder()
    if run_key.made(folder):
        environment[run_key.KEY_FOLDER] = folder
    os.setpgrp()  # a Ctrl-C is for mpirun, which ends its daemons in order
    os.execve("/bin/sh", ["sh", "-c", " ".join(command)], environment)


def rank() -> None:
    """Run a rank, as the daemon's agent: `COMMAND...` runs on the daemon's host."""
    command, host, daemon_pid = sys.argv[1:], os.environ.get(HOST, ""), os.getppid()
    if sentence := crowded():
        end_run(sentence)
    for number in range(TRIES):
        status, phase, ssh_output = over_ssh(host, command, daemon_pid)
        if (
            phase is not StartPhase.NOT_STARTED
            or not PASSING.search(ssh_output)
            or os.getppid() != daemon_pid
        ):
            break
        time.sleep((1 + number) * os.urandom(1)[0] / 256)
    if os.getppid() != daemon_pid:  # the daemon is gone
        sys.exit(1)
    if phase is StartPhase.JOINED or status == 0 or PROGRAM not in command:
        if phase is StartPhase.NOT_STARTED:
            os.write(2, f"{host} cannot be reached by ssh: {ssh_output}\n".encode())
        if status == 255:  # a signal, or the host is lost: MPI reports deaths by a signal only
            os.kill(os.getpid(), signal.SIGKILL)
        sys.exit(status)
    why = "was lost" if status == 255 else f"ended with status {status}"
    if phase is StartPhase.IN_MPI_INIT:  # the others wait for it in MPI_Init for ever
        end_run(f"{host}: its rank {why} while MPI started, which ends the run: start again")
    # All ranks wait for this one to start, so it starts here, and dies.
    os.environ[ABSENT] = (
        f"{host}: its rank {why} before MPI started" if phase is StartPhase.SHELL_ANSWERED
        else f"{host} cannot be reached by ssh: {ssh_output}"
    )  # fmt: skip
    os.write(2, f"{os.environ[ABSENT]}\n".encode())
    os.environ["PATH"] = path_for(os.environ.get("PATH", ""))
    os.execvp(command[0], command)


def crowded() -> str:
    """Return '' if MPI can start, else one sentence.

    To PMIx all hosts have one name, that of this machine, on which their daemons run. What it reports of a
    host is of the last one, and MPI_Init fails in a rank that has more neighbours than that one's.
    """
    try:
        rank, ranks = (variables.number([f"OMPI_COMM_WORLD_LOCAL_{name}"], -1) for name in ("RANK", "SIZE"))
    except variables.Wrong as error:
        return str(error)
    if rank < ranks or ranks < 0:
        return ""
    return (
        f"a host has more ranks than the hostfile's last one, which has {ranks}: name the host with most "
        "slots last"
    )


def end_run(sentence: str) -> NoReturn:
    """Print why, and end mpirun, which ends all else in order, and this process."""
    import psutil

    with contextlib.suppress(OSError):
        os.write(2, f"{sentence}\n".encode())
    with contextlib.suppress(psutil.Error):  # it ends already
        for process in psutil.Process().parents():
            if process.name() in LAUNCHERS:
                process.terminate()
                break
    os._exit(1)


def over_ssh(host: str, command: list[str], daemon_pid: int) -> tuple[int, StartPhase, str]:
    """Run a rank. -> ssh's status (255: it died), how far the rank had come, ssh's output before it began."""
    speaks = os.environ.get("PMIX_RANK") == "0"  # whose standard input is mpirun's
    port = PORTS[int.from_bytes(os.urandom(4)) % len(PORTS)]
    bearable_s = silence_s(command)
    key = run_key.read(os.environ.get(run_key.KEY_FOLDER, "")) if PROGRAM in command else ""
    words = command if speaks or PROGRAM not in command else without_prompt(command)
    script, home = remote(words, port, 0.0 if speaks else bearable_s, key)
    try:
        ssh = started(host, len(script.encode()), port, home, bearable_s)
    except variables.Wrong as error:
        return 255, StartPhase.NOT_STARTED, str(error)
    except OSError as error:
        return 255, StartPhase.NOT_STARTED, variables.not_started(error)
    assert ssh.stderr
    assert ssh.stdin
    phase, ssh_output, tail, last_keepalive = StartPhase.NOT_STARTED, b"", b"", 0.0
    give_up_at = time.monotonic() + CONNECT_S + SHELL_S
    with contextlib.suppress(OSError):
        os.write(ssh.stdin.fileno(), script.encode())
    end = partial(end_with_daemon, ssh, launcher_above(daemon_pid))
    signal.signal(signal.SIGTERM, end)
    while True:
        now = time.monotonic()
        if ssh.stdin and not speaks and now - last_keepalive >= KEEPALIVE_S:
            last_keepalive = now
            with contextlib.suppress(OSError):
                os.write(ssh.stdin.fileno(), KEEPALIVE)
        if os.getppid() != daemon_pid:
            end()
        if phase in (StartPhase.NOT_STARTED, StartPhase.SHELL_ANSWERED) and now > give_up_at:
            ssh_output += b"its shell does not answer"
            ssh.kill()
            break
        if select.select([ssh.stderr], [], [], 1.0 if phase is StartPhase.NOT_STARTED else KEEPALIVE_S)[0]:
            if not (data := os.read(ssh.stderr.fileno(), 65536)):
                break
            if phase is StartPhase.NOT_STARTED:
                ssh_output, mark, data = (ssh_output + data).partition(MARKS[StartPhase.SHELL_ANSWERED])
                if mark:
                    phase, give_up_at = StartPhase.SHELL_ANSWERED, now + BEGIN_S
                    if speaks:
                        hand_input_on(ssh)
            tail = tail[-100:] + data  # a mark may come in two parts
            for further in StartPhase.IN_MPI_INIT, StartPhase.JOINED:
                if phase is not further and MARKS[further] in tail:
                    phase, tail, data = further, b"", data.replace(MARKS[further], b"", 1)
            try:
                os.write(2, data)
            except OSError:  # the daemon is gone
                end()
    status = 255 if phase is StartPhase.NOT_STARTED or ssh.wait() < 0 else ssh.returncode
    return status, phase, " ".join(ssh_output.decode(errors="replace").split())


def started(host: str, script_bytes: int, port: int, home: set[str], bearable_s: float) -> subprocess.Popen:
    """Start an ssh whose shell on `host` reads its script from standard input: it may hold secrets, and
    everybody can read the arguments of an ssh. Raises variables.Wrong or OSError."""
    words = f'eval "$(dd bs=1 count={script_bytes} 2>/dev/null)"'  # dd reads no further
    return subprocess.Popen(
        [
            *variables.ssh(),
            *(f"-o{option}" for option in options(bearable_s)),
            *(f"-R127.0.0.1:{port}:{address}" for address in home),
            "--",
            host,
            f"exec sh -c {shlex.quote(words)}",
        ],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,  # it brings OUTLIVE to the rank, whatever becomes of this process
    )


def hand_input_on(ssh: subprocess.Popen) -> None:
    """Hand mpirun's standard input on to rank 0, behind its script: no word of ours goes there any more."""
    pipe, ssh.stdin = ssh.stdin, None
    assert pipe

    def copy() -> None:
        with contextlib.suppress(OSError), pipe:
            while data := os.read(0, 65536):
                pipe.write(data)
                pipe.flush()

    threading.Thread(target=copy, daemon=True).start()


def silence_s(command: list[str]) -> float:
    """Return how long a host may be silent until its rank is lost: longer than the run waits for the node."""
    words = [part for word in command for part in word.split("=", 1)]
    given = [after for word, after in itertools.pairwise(words) if word == GIVE_UP]
    try:
        return LONGER_S + max(GIVE_UP_S, float(given[-1]))
    except (IndexError, ValueError):  # not given; or nonsense, which the run itself refuses
        return LONGER_S + GIVE_UP_S
