"""mpirun's daemons at home: a lost machine is then a lost process, which MPI tells of, and not the run's end.

Open MPI 5.0 starts a daemon on every host, and a daemon that is lost ends all. Two programs change that:

    mpirun --- daemon (per host, here: `daemon`) --- `rank` (here) === ssh === the rank on its host

`python -m jarvis_mpi setup` names the first one to mpirun, which runs it where it would run ssh, so a run on
one machine never comes here. The daemon's environment names the second one, which it runs where it would
run the rank. ssh brings the daemon's own port to the host (-R, on its loopback), the rank's words back, and a
sign of life to the rank, which ends when that stays away: nothing is left on a host that was cut off.

Started once for every rank: only the standard library, and little of it.
"""

import contextlib
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time

HOST, ABSENT, LIFELINE = "JARVIS_HOST", "JARVIS_ABSENT", "JARVIS_LIFELINE"
SSH = "JARVIS_SSH"  # the user's: a command in ssh's place, such as "ssh -p 2222"
SIGN_S = 5.0  # between signs of life
SILENCE_S = 75  # of a host, until it counts as lost: longer than --give-up-s, for it may come back until then
CONNECT_S = 10  # for the host to answer
SHELL_S = 30.0  # for its shell to answer: a start-up file may hang
HERE = b"jarvis_mpi is on its way\n"  # the shell's answer
PORTS = range(20000, 32000)  # below those that kernels give away
TRIES = 5  # ports that may be taken
# Of this machine alone. What else a rank is told (mpirun's own words, and the user's: mpirun -x NAME) goes along.
OURS = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_.*|TERM|TMPDIR|TZ|PWD|OLDPWD|SHLVL|_|SSH_.*|KRB5CCNAME|XDG_.*"
    rf"|{HOST}|{SSH}|PMIX_HOSTNAME|PMIX_SERVER_TMPDIR|PMIX_SYSTEM_TMPDIR"
)
MPIS = re.compile(r"(PMIX|PRTE|OMPI|OPAL)_.*|LD_LIBRARY_PATH")


def daemon() -> None:
    """mpirun's agent: `HOST COMMAND...` starts COMMAND, the daemon for HOST, here."""
    words = sys.argv[1:]
    while words and words[0].startswith("-"):
        words.pop(0)
    host, *command = words
    environment = {
        name: value for name, value in os.environ.items() if OURS.fullmatch(name) or MPIS.match(name)
    }
    environment[HOST] = host
    environment["PRTE_MCA_odls_base_exec_agent"] = sys.argv[0].removesuffix("-daemon") + "-rank"
    environment["PMIX_MCA_gds"] = "hash"  # the other store is memory that a daemon and its ranks share,
    environment["PMIX_MCA_pmix_hwloc_hole_kind"] = (
        "none"  # and so is a topology, unless there is no hole for it
    )
    os.setpgrp()  # a Ctrl-C is mpirun's, who ends its daemons in order
    os.execve("/bin/sh", ["sh", "-c", " ".join(command)], environment)


def rank() -> None:
    """The daemon's agent: `COMMAND...` runs it on the daemon's host."""
    command, host = sys.argv[1:], os.environ.get(HOST, "")
    for _ in range(TRIES):
        status, begun, said = over_ssh(host, command)
        if begun or "remote port forwarding failed" not in said:
            break
    if status != 255:
        sys.exit(status)
    if begun:  # the rank died by a signal, or its host is lost: MPI tells of a signal's deaths alone
        os.kill(os.getpid(), signal.SIGKILL)
    # Everybody waits for this rank to come into being, so it does, here, says why, and dies.
    os.environ[ABSENT] = f"{host} cannot be reached by ssh: {said}"
    os.environ["PATH"] = path_for(os.environ.get("PATH", ""))
    os.execvp(command[0], command)


def over_ssh(host: str, command: list[str]) -> tuple[int, bool, str]:
    """Run a rank. -> ssh's status, whether the rank came to be started, and what ssh said before."""
    speaks = os.environ.get("PMIX_RANK") == "0"  # whose standard input is mpirun's
    port = PORTS[int.from_bytes(os.urandom(4)) % len(PORTS)]
    words, home = remote(command, port, lifeline=not speaks)
    ssh = subprocess.Popen(
        [
            *shlex.split(os.environ.get(SSH, "ssh")),
            *(f"-o{option}" for option in options()),
            *(f"-R127.0.0.1:{port}:{address}" for address in home),
            host,
            words,
        ],
        stdin=None if speaks else subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert ssh.stderr
    begun, said, last_sign = False, b"", 0.0
    give_up_at, parent = time.monotonic() + CONNECT_S + SHELL_S, os.getppid()
    while True:
        now = time.monotonic()
        if ssh.stdin and now - last_sign >= SIGN_S:
            last_sign = now
            with contextlib.suppress(OSError):
                os.write(ssh.stdin.fileno(), b"!")
        if os.getppid() != parent:  # the daemon is gone
            ssh.kill()
        if not begun and now > give_up_at:
            said += b"its shell does not answer"
            ssh.kill()
            break
        if select.select([ssh.stderr], [], [], SIGN_S if begun else 1.0)[0]:
            if not (data := os.read(ssh.stderr.fileno(), 65536)):
                break
            if begun:
                os.write(2, data)
                continue
            said, answer, after = (said + data).partition(HERE)
            if begun := bool(answer):
                os.write(2, after)
    return (ssh.wait() if begun else 255), begun, " ".join(said.decode(errors="replace").split())


def options() -> list[str]:
    """ssh's, after the user's own on the command line (JARVIS_SSH), which come first and hold."""
    return [
        "BatchMode=yes",  # a question for a password would be nobody's to answer
        f"ConnectTimeout={CONNECT_S}",
        "ExitOnForwardFailure=yes",
        f"ServerAliveInterval={SILENCE_S // 5}",
        "ServerAliveCountMax=5",
        "ControlPath=none",  # a shared connection would outlive the rank
        "LogLevel=ERROR",
        "RequestTTY=no",
        "ForwardX11=no",
    ]


def remote(command: list[str], port: int, lifeline: bool) -> tuple[str, set[str]]:
    """The words for the host's shell, and the addresses here that `port` is to lead to."""
    home = set()
    environment = {LIFELINE: str(SILENCE_S)} if lifeline else {}
    for name, value in os.environ.items():
        if name.startswith("PMIX_SERVER_URI"):
            home |= set(re.findall(r"tcp[46]://(.*:\d+)", value))
            value = re.sub(r"tcp[46]://.*:\d+", f"tcp4://127.0.0.1:{port}", value)
        if not OURS.fullmatch(name):
            environment[name] = value
    assigned = (f"{name}={value}" for name, value in environment.items())
    script = f"cd {shlex.quote(os.getcwd())} 2>/dev/null; "  # noqa: PTH109 (pathlib takes 10 ms to import)
    script += f"echo {shlex.quote(HERE.decode().strip())} >&2; "
    script += f'PATH={shlex.quote(path_for(""))}"$PATH" exec env {shlex.join([*assigned, *command])}'
    return f"exec sh -c {shlex.quote(script)}", home


def path_for(path: str) -> str:
    """`path` with the environment's own programs before it: it is at the same place on every host."""
    return f"{os.path.dirname(sys.argv[0])}:{path}"  # noqa: PTH120
