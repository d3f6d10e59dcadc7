"""A worker, mpirun, and the machine where the prompt was typed go, one after the other, and the text goes on:

    python docs/make/hosts_demo.py                                          # in this terminal
    python docs/make/recording.py docs/hosts.cast docs/hosts.svg --hosts    # recorded

On five hosts of one's own (python -m jarvis_mpi rehearse): root, Linux, sshd; the model must be here already.
Lines that begin with # tell what happens from outside.
"""

import os
import re
import shlex
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
    """What a command writes, passed on as it comes."""

    def __init__(self, host: int, words: list[str], log: Path):
        print(f"\n[{own_processes.name(host)}]$ {shlex.join(words[:3])} ...", flush=True)
        limited = ["timeout", "-k", "5", str(LIMIT_S), *words]
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                own_processes.command(host, limited),
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        self.seen = 0

    def until(self, characters: int) -> None:
        """Pass on so many more, or all."""
        end = self.seen + characters
        while self.seen < end:
            ended = self.process.poll() is not None
            data = self.log.read_bytes()[self.seen :]
            sys.stdout.buffer.write(data)
            sys.stdout.flush()
            self.seen += len(data)
            if ended and not data:
                return
            time.sleep(0.05)

    def until_ready(self) -> int:
        """Pass on all to the first characters of the answer. -> the standby."""
        while not (found := STANDS_BY.search(self.log.read_bytes())):
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)
        self.until(found.end() - self.seen + 10)
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
    first = Shown(0, [*mpirun, *WORDS, "--log", str(log)], folder / "first")
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
    Shown(standby, words, folder / "second").until(1 << 30)
    print(flush=True)


if __name__ == "__main__":
    main()
