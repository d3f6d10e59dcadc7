"""What goes from a launch agent to its rank on another host, by the rank's standard input.

See ssh_keepalive.py. Only the standard library, and little of it: see launch_agents.py.
"""

import contextlib
import os
import subprocess
from typing import NoReturn

from .ancestry import has_ended

# The rank is watched over; mpirun died, and only it; the rank is to end.
KEEPALIVE, OUTLIVE, END = b"!", b"O", b"X"
ENDING_S = 2.0  # for END to reach the host
DYING_S = 0.15  # for mpirun to be gone, where it is: SIGKILL follows SIGTERM after a quarter of a second


def end_with_daemon(ssh: subprocess.Popen, launcher_pid: int, *_: object) -> NoReturn:
    """End this process, and the rank with it, unless mpirun has died: then only the rank is left to end the
    run in order."""
    if ssh.stdin and launcher_pid and has_ended(launcher_pid, DYING_S):
        with contextlib.suppress(OSError):
            os.write(ssh.stdin.fileno(), OUTLIVE)
    else:
        end_by(ssh)
    os._exit(1)


def end_by(ssh: subprocess.Popen) -> None:
    """Have the rank end, and its ssh: without a last word it may take this machine for lost, and go on."""
    if not ssh.stdin:
        ssh.kill()
        return
    with contextlib.suppress(OSError):
        os.write(ssh.stdin.fileno(), END)
        ssh.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            ssh.wait(DYING_S)
            return
        words = f"sleep {ENDING_S}; kill -9 {ssh.pid}"
        subprocess.Popen(["sh", "-c", words], start_new_session=True)
