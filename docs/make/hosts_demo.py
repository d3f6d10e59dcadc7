"""A worker, mpirun, and the machine where the prompt was typed go, one after the other, and the text goes on:

    python docs/make/hosts_demo.py                                          # in this terminal
    python docs/make/recording.py docs/hosts.cast docs/hosts.svg --hosts    # recorded

On five hosts of one's own (python -m jarvis_mpi rehearse): root, Linux, sshd; the model must be here already.
Lines that begin with # tell what happens from outside.
"""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jarvis_mpi.testbed import own_hosts, own_processes

HOSTS = 5
PROMPT = "Tell me, in order, what happens to a raindrop from the cloud to the sea."
WORDS = ["--prompt", PROMPT, "--max-new-tokens", "220", "--ignore-eos", "--pace-s", "0.002"]
LIMIT_S = 150
BETWEEN = 160  # characters of the answer between two faults
STANDS_BY = re.compile(rb"node (\d+) \(\w+\) goes on if the end user dies")


class Shown:
    """What a command writes to a terminal, passed on as it comes."""

    def __init__(self, host: int, words: list[str], typed: str):
        print(f"\n[{own_processes.name(host)}]$ {typed}", flush=True)
        limited = ["timeout", "-k", "5", str(LIMIT_S), *words]
        self.ours, its = pty.openpty()
        self.process = subprocess.Popen(
            own_processes.command(host, limited), stdout=its, stderr=its, stdin=subprocess.DEVNULL
        )
        os.close(its)
        self.written = b""

    def more(self) -> bool:
        """Pass on what comes. -> False once it has ended."""
        try:
            data = os.read(self.ours, 4096) if select.select([self.ours], [], [], 0.2)[0] else b""
        except OSError:  # Linux's way to say that the other end is closed
            return False
        self.written += data
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return True

    def until(self, characters: int) -> None:
        """Pass on so many more, or all."""
        end = len(self.written) + characters
        while len(self.written) < end and self.more():
            pass

    def until_ready(self) -> int:
        """Pass on all to the first characters of the answer. -> the standby."""
        while not (found := STANDS_BY.search(self.written)):
            assert self.more(), self.written.decode()
        self.until(20)
        return int(found[1])


def told(words: str) -> None:
    print(f"\n# {words}", flush=True)
    time.sleep(1.0)


def main() -> None:
    if why := own_hosts.missing():
        sys.exit(why)
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as scratch:
        own_hosts.up(HOSTS - 1, Path(scratch))
        try:
            play(Path(scratch))
        finally:
            own_hosts.down()


def play(folder: Path) -> None:
    hostfile, log = own_processes.STATE / "hostfile", folder / "run.h5"
    mpirun = ["mpirun", "-hostfile", str(hostfile), "-n", str(HOSTS), sys.executable, "-m", "jarvis_mpi"]
    typed = f'mpirun -hostfile hosts -n {HOSTS} python -m jarvis_mpi --prompt "{PROMPT}"'
    first = Shown(0, [*mpirun, *WORDS, "--log", str(log)], typed)
    standby = first.until_ready()
    first.until(BETWEEN)
    worker = next(node for node in range(2, HOSTS) if node != standby)
    told(f"{own_processes.name(worker)}, a worker, loses power")
    own_hosts.off(worker)
    first.until(BETWEEN)
    told("mpirun is killed")
    for pid in own_processes.busy(0):
        if own_processes.proc_file(pid, "comm").strip() in ("prterun", "mpirun"):
            os.kill(pid, signal.SIGKILL)
    first.until(BETWEEN)
    home, elsewhere = own_processes.name(0), own_processes.name(standby)
    told(f"{home}, where the prompt was typed, loses power; somebody looks at {elsewhere}")
    own_hosts.off(0)
    time.sleep(2.0)
    words = [sys.executable, "-m", "jarvis_mpi", "attach"]
    Shown(standby, words, "python -m jarvis_mpi attach").until(1 << 30)
    print(flush=True)


if __name__ == "__main__":
    main()
