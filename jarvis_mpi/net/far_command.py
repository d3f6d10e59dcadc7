"""Says what ssh and the shell of another host are to run for a rank: launch_agents.py starts it.

Only the standard library, and little of it.
"""

import enum
import os
import re
import shlex
import sys

from ..common.variables import SSH
from .run_key import KEY, KEY_FOLDER

HOST, SSH_KEEPALIVE = "JARVIS_HOST", "JARVIS_SSH_KEEPALIVE"
PROMPT = "--prompt"  # the run's own word, whose value only rank 0 needs
CONNECT_S = 10  # for the host to answer
# Variables of this machine alone. All others (mpirun's own, and the user's: mpirun -x NAME) are passed on.
OURS = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_.*|TERM|TMPDIR|TZ|PWD|OLDPWD|SHLVL|_|SSH_.*|KRB5CCNAME|XDG_.*"
    rf"|{HOST}|{SSH}|{KEY_FOLDER}|PMIX_HOSTNAME|PMIX_SERVER_TMPDIR|PMIX_SYSTEM_TMPDIR"
)
# Names of variables, but of those that some shells let nobody change.
EXPORTABLE = re.compile(r"(?!(E?UID|PPID|GROUPS|SHELLOPTS|BASH.*)$)[A-Za-z_][A-Za-z0-9_]*")


class StartPhase(enum.Enum):
    """How far a rank's start on its host has come."""

    NOT_STARTED = enum.auto()
    SHELL_ANSWERED = enum.auto()
    IN_MPI_INIT = enum.auto()
    JOINED = enum.auto()


# The rank writes each in one write, as a line of its own on standard error.
MARKS: dict[StartPhase, bytes] = {
    phase: f"jarvis_mpi: {phase.name}\n".encode()
    for phase in StartPhase
    if phase is not StartPhase.NOT_STARTED
}


def without_prompt(command: list[str]) -> list[str]:
    """Return a worker's words: everybody on its host can read them."""
    words, left = [], iter(command)
    for word in left:
        if word == PROMPT:
            next(left, "")
        elif not word.startswith(f"{PROMPT}="):
            words.append(word)
    return words


def options(silence_s: float) -> list[str]:
    """Return ssh's options. Those of the user's command (JARVIS_SSH) come before them and win."""
    return [
        "BatchMode=yes",  # nobody could answer a question for a password
        f"ConnectTimeout={CONNECT_S}",
        "ExitOnForwardFailure=yes",
        f"ServerAliveInterval={max(1, round(silence_s / 5))}",
        "ServerAliveCountMax=5",
        "ControlPath=none",  # a shared connection would outlive the rank
        "LogLevel=ERROR",
        "RequestTTY=no",
        "RemoteCommand=none",
        "ForwardX11=no",
    ]


def remote(command: list[str], port: int, bearable_s: float, key: str = "") -> tuple[str, set[str]]:
    """Return the script for the host's shell, and the addresses here to which `port` leads."""
    home = set()
    environment = {SSH_KEEPALIVE: str(bearable_s)}
    for name, value in os.environ.items():
        if name.startswith("PMIX_SERVER_URI"):
            home |= set(re.findall(r"tcp[46]://(.*:\d+)", value))
            value = re.sub(r"tcp[46]://.*:\d+", f"tcp4://127.0.0.1:{port}", value)
        if not OURS.fullmatch(name):
            environment[name] = value
    if key:
        environment[KEY] = key
    # What stands before a command shows in `ps` while `env` runs: only names that a shell cannot export.
    exported = {name: value for name, value in environment.items() if EXPORTABLE.fullmatch(name)}
    others = (f"{name}={value}" for name, value in environment.items() if name not in exported)
    script = f"cd {shlex.quote(os.getcwd())} 2>/dev/null; "  # noqa: PTH109 (pathlib takes 10 ms to import)
    script += f"echo {shlex.quote(MARKS[StartPhase.SHELL_ANSWERED].decode().strip())} >&2; "
    script += "".join(f"export {name}={shlex.quote(value)}; " for name, value in exported.items())
    script += f'PATH={shlex.quote(path_for(""))}"$PATH" exec env {shlex.join([*others, *command])}'
    return script, home


def path_for(path: str) -> str:
    """Return `path` with the environment's programs before it: the environment is at the same place on every
    host."""
    return f"{os.path.dirname(sys.argv[0])}:{path}"  # noqa: PTH120
