"""Writes and reads Open MPI's parameter files in the environment."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..common.boundary import reason
from ..common.errors import Unservable
from ..common.layers import END_USER
from .handshake import Hello

PARAMETERS: Mapping[str, Mapping[str, str]] = {
    "openmpi-mca-params.conf": {
        "mpi_ft_enable": "1",  # ULFM: a dead rank is an error for the others, not their end
        "mpi_add_procs_cutoff": "1024",  # otherwise a revoke may wait for a dead process, across hosts
        "coll": "^han",  # which takes hosts for one whose daemons are at home, and then waits for ever
    },
    "prte-mca-params.conf": {
        "state_base_recoverable": "1",  # mpirun goes on when a rank dies
        "state_base_notify_errors": "1",  # and tells the others
        "hwloc_default_binding_policy": "none",  # more ranks than cores are refused otherwise
        "rmaps_default_mapping_policy": "slot:oversubscribe",
        # -n 9 without a hostfile; one with slots is kept to
    },
}


AGENT = Path(sys.prefix) / "bin" / "jarvis_mpi-daemon"  # daemons at home: see launch_agents.py


HEADING = "# jarvis_mpi: written by python -m jarvis_mpi setup"


def without_fault_tolerance(vendor: str) -> str:
    """Return '' if this MPI reports lost processes, else one sentence: that, and what to do."""
    if vendor != "Open MPI":
        how = (
            ", and a run outlives them only under mpiexec -disable-auto-cleanup" if vendor == "MPICH" else ""
        )
        return f"{vendor} does not tell of lost processes: only their silence shows that they are gone{how}"
    name = "mpi_ft_enable"
    value = os.environ.get(f"OMPI_MCA_{name}")
    for path in parameter_files():
        if value is None:
            value = parameters_in(text_of(path)).get(name)
    if switched_on(value or ""):
        return ""
    return (
        f"MPI's fault tolerance is off ({name}): a lost process ends the run or shows by its silence only;"
        " python -m jarvis_mpi setup switches it on"
    )


def parameter_files() -> Iterator[Path]:
    """Yield Open MPI's parameter files; the first one wins."""
    with contextlib.suppress(RuntimeError):  # nobody's home
        yield Path.home() / ".openmpi" / "mca-params.conf"
    yield Path(sys.prefix) / "etc" / "openmpi-mca-params.conf"


def text_of(path: Path) -> str:
    """Return the file's text; '' where it cannot be read: MPI cannot either, and goes on."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def machines_without_daemon_at_home(hellos: Mapping[int, Hello]) -> str:
    """Return '' if the run survives the loss of any machine but the end user's, else one sentence."""
    mine = hellos[END_USER].machine
    hosts = {other.host for other in hellos.values() if other.machine != mine and not other.daemon_at_home}
    if not hosts:
        return ""
    return (
        f"mpirun has a daemon of its own on {', '.join(sorted(hosts))}: the loss of such a machine ends the "
        "run; python -m jarvis_mpi setup keeps daemons at home (not under Slurm)"
    )


def parameters_in(text: str) -> dict[str, str]:
    """Parse a parameter file: name -> value."""
    lines = (line.partition("=") for line in text.splitlines() if not line.lstrip().startswith("#"))
    return {name.strip(): value.strip() for name, _, value in lines}


def no_agent() -> str:
    """Return '' if our agent can be named to mpirun, else one sentence: an agent that it does not find ends
    every run."""
    lost = "so a whole machine that is lost ends the run"
    if not os.access(AGENT, os.X_OK):
        return f"{AGENT} is not there, {lost}: pip install jarvis_mpi into this environment"
    if " " in str(AGENT) or ":" in str(AGENT):  # by which mpirun splits words and agents
        return f"{AGENT.parent} has a space or a colon in its path, {lost}: move the environment"
    return ""


def write_parameters(folder: Path) -> list[Path]:
    """Add our lines to the parameter files in `folder`; a parameter that has a line keeps it."""
    paths = []
    for name, parameters in PARAMETERS.items():
        path = folder / name
        try:
            text = path.read_text() if os.path.lexists(path) else ""
        except (OSError, UnicodeDecodeError) as error:
            raise Unservable(
                f"{path} cannot be read ({reason(error)}): correct it, or use a virtual environment"
            ) from None
        known = parameters_in(text)
        if name.startswith("prte") and not no_agent():
            parameters = {**parameters, "plm_ssh_agent": str(AGENT)}
        missing = [f"{key} = {value}" for key, value in parameters.items() if key not in known]
        if missing:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                path.write_text("\n".join([text.rstrip(), HEADING, *missing, ""]).lstrip())
            except OSError as error:
                raise Unservable(
                    f"{path} cannot be written: {error.strerror}; use a virtual environment"
                ) from None
        paths.append(path)
    return paths


def switched_on(value: str) -> bool:
    """Whether Open MPI takes the value for true."""
    if re.fullmatch(r"\s*[+-]?\d+", value):
        return bool(int(value))
    return value.strip().lower() in ("true", "t", "yes", "y", "enabled")
