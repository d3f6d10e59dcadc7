"""Hands every rank of a run the key with which its messages are sealed (sealed_link.py).

    one machine      the first rank writes it into mpirun's own folder, the others read it there
    several hosts    launch_agents.daemon writes it there before any rank starts; launch_agents.rank sends it
                     over the ssh connection that starts the rank, on standard input

Nobody else can read that folder, nor the environment of a process. Once all ranks have joined, the file is
removed. Only the standard library, and little of it: see launch_agents.py.
"""

import contextlib
import os

from ..common import variables
from ..common.errors import Unservable
from .ancestry import environment, launcher_above
from .private_folder import FOLDER, opened

KEY = "JARVIS_RUN_KEY"  # a rank's on another host
KEY_FOLDER = "JARVIS_RUN_KEY_FOLDER"  # where launch_agents.rank finds it
FILE = "jarvis_mpi.key"
KEY_BYTES = 32
LOCAL_SIZES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")
NO_KEY = (
    "this launcher hands no key to ranks on several hosts (Open MPI 5's mpirun does, after python -m "
    "jarvis_mpi setup)"
)
CLEAR = f"messages between hosts travel in the clear: {NO_KEY}"
REFUSED = "--secure on cannot be had: "
NO_FOLDER = "mpirun's folder of this run is not this user's alone"


def read(folder: str) -> str:
    """Return the key in a folder, in hexadecimal digits; '' where there is none, or others can read it."""
    if (inside := opened(folder)) is None:
        return ""
    try:
        with os.fdopen(os.open(FILE, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=inside)) as file:
            return file.read()
    except OSError:
        return ""
    finally:
        os.close(inside)


def made(folder: str) -> str:
    """Return the key in a folder, as `read`; make it if there is none. Any number of processes may do it."""
    if (inside := opened(folder)) is None:
        return ""
    own = f"{FILE}.{os.getpid()}"
    try:
        with os.fdopen(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=inside), "w") as file:
            file.write(os.urandom(KEY_BYTES).hex())
        with contextlib.suppress(FileExistsError):  # another was first
            os.link(own, FILE, src_dir_fd=inside, dst_dir_fd=inside)
        os.unlink(own, dir_fd=inside)
    except OSError:  # the disk is full
        return ""
    finally:
        os.close(inside)
    return read(folder)


def launchers_folder() -> str:
    """Return the folder of the mpirun above this process, which its daemons' programs are not told; '' where
    it is elsewhere."""
    launcher = launcher_above(os.getppid())
    names = ("PRTE_MCA_prte_tmpdir_base", "PRTE_MCA_prte_local_tmpdir_base", "TMPDIR", "TEMP", "TMP")
    bases = filter(None, map(environment(launcher).get, names))
    base = next(bases, "/tmp")
    return f"{base}/ompi.{launcher}" if launcher else ""


def removed() -> None:
    """Remove the file: every rank has joined, so every one has read it."""
    if (inside := opened(os.environ.get(FOLDER, ""))) is not None:
        with contextlib.suppress(OSError):
            os.unlink(FILE, dir_fd=inside)
        os.close(inside)


def several_hosts() -> bool:
    """Whether the launcher has put ranks on more than one host. Raises variables.Wrong."""
    ranks = variables.number(("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"), 1)
    here = variables.number(LOCAL_SIZES, ranks)
    alone = any(name in os.environ for name in LOCAL_SIZES)
    return here < ranks or (not alone and variables.number(("SLURM_STEP_NUM_NODES",), 1) > 1)


def key_for(secure: str) -> tuple[bytes, str]:
    """-> this rank's key, b'' where messages are not to be sealed; and a notice, '' where there is none.

    `secure`: of --secure. Raises Unservable where it is 'on' and there is no key.
    """
    given = os.environ.pop(KEY, "")  # not for the programs that this one starts
    try:
        apart = several_hosts()
    except variables.Wrong as error:
        raise Unservable(str(error)) from None
    if secure == "off" or (secure == "auto" and not apart):
        return b"", ""
    # The second is of a rank that stands in here for one on a host that cannot be reached.
    folder = os.environ.get(KEY_FOLDER) or os.environ.get(FOLDER, "")
    key = given or (read(folder) if apart else made(folder))
    try:
        found = bytes.fromhex(key)
    except ValueError:
        found = b""
    if len(found) == KEY_BYTES:
        return found, ""
    if secure == "on":
        raise Unservable(REFUSED + (NO_KEY if apart or not folder else NO_FOLDER))
    return b"", CLEAR
