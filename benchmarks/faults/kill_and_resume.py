"""SIGKILL for the end user, or for a worker that nobody replaces, at random moments: is every token that was
shown in the record, can it be read by anyone, and does --resume go on to the same text?

    python -m benchmarks.faults.kill_and_resume [--times 20] [--seed 0]

SmolLM2 in float32 over one end user and three workers; every other run draws its tokens (--temperature 0.8).
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import ROOT
from benchmarks.arguments import parser
from jarvis_mpi.model import checkpoint
from jarvis_mpi.model.tokenizer import Text
from jarvis_mpi.record import hdf5
from jarvis_mpi.record.reader import load

PROMPT = "Tell me the story of a raindrop, from the cloud to the sea."
TOKENS, RANKS, LIMIT_S = 60, 4, 150
GREEDY, DRAWN = (), ("--temperature", "0.8", "--seed", "5")


def command(ranks: int, *words: str) -> list[str]:
    limited = ["timeout", "-k", "5", str(LIMIT_S), "mpirun", "-hostfile", "hostfiles/local", "-n", str(ranks)]
    return [*limited, sys.executable, "-m", "jarvis_mpi", *words]


def words_for(log: Path, draws: tuple[str, ...]) -> list[str]:
    asked = ["--prompt", PROMPT, "--dtype", "float32", "--max-new-tokens", str(TOKENS), "--ignore-eos"]
    return [*asked, "--standby", "0", "--on-fault", "stop", *draws, "--log", str(log)]


def pid_of(node: int, mark: str) -> int:
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            said = path.read_bytes().split(b"\0")
            if f"JARVIS_TEST={mark}".encode() in said and f"PMIX_RANK={node}".encode() in said:
                return int(path.parent.name)
    raise AssertionError(f"no process of node {node}")


def killed(log: Path, node: int, draws: tuple[str, ...], after_s: float) -> str:
    """Run, and SIGKILL the node so long after its question. -> what had been shown."""
    mark = f"kill-and-resume-{os.getpid()}-{log.stem}"
    with subprocess.Popen(
        command(RANKS, *words_for(log, draws)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "JARVIS_TEST": mark},
    ) as run:  # fmt: skip
        while True:
            assert run.poll() is None, f"status {run.returncode} before anything was asked"
            if log.exists() and load(log).questions:
                break
            time.sleep(0.01)
        time.sleep(after_s)
        os.kill(pid_of(node, mark), signal.SIGKILL)
        return run.communicate(timeout=LIMIT_S)[0].decode(errors="ignore")


def judge(log: Path, shown: str, text: Text, whole: list[int], whole_text: str) -> tuple[list[str], int]:
    """What is wrong, and how many tokens the record holds; it is resumed with one worker less."""
    wrong = []
    run = load(log)
    held = run.tokens["token"].tolist()
    decoded = text.tokenizer.decode(held, skip_special_tokens=True)
    if not decoded.startswith(shown.rstrip("\n�")):
        wrong.append(f"shown but not in the record: {shown[len(decoded) - 10 :]!r}")
    if held != whole[: len(held)]:
        wrong.append("the record holds other tokens")
    done = subprocess.run(
        command(RANKS - 1, "--resume", str(log)), cwd=ROOT, capture_output=True, timeout=LIMIT_S + 30
    )
    run = load(log)
    if done.returncode or run.ended != "done":
        wrong.append(
            f"resumed: status {done.returncode}, {run.ended or 'no mark'}: {done.stderr.decode()[-300:]}"
        )
    if run.tokens["token"].tolist() != whole or done.stdout.decode() != whole_text:
        wrong.append("resumed: another text")
    if run.tokens["step"].tolist() != list(range(TOKENS)) or len(run.hops) != run.tokens["hops"].sum():
        wrong.append("resumed: rows are missing or doubled")
    with hdf5.read(log) as plain:
        if len(plain["tokens"]) != TOKENS:
            wrong.append("plain h5py reads another number of rows")
    if dump := shutil.which("h5dump"):
        dumped = subprocess.run([dump, "-d", "/tokens", log], capture_output=True, text=True)
        if dumped.returncode or f"({TOKENS - 1})" not in dumped.stdout:
            wrong.append(f"h5dump: {dumped.stderr[-200:]}")
    return wrong, len(held)


def main() -> int:
    made = parser(__doc__)
    made.add_argument("--times", type=int, default=20, help="of each: the end user, a worker")
    made.add_argument("--seed", type=int, default=0)
    words = made.parse_args()
    dice, failed = random.Random(words.seed), 0
    text = Text(checkpoint.locate("smollm2-135m-instruct"))
    if not shutil.which("h5dump"):
        print("h5dump is not here (apt-get install hdf5-tools): what it says is not checked")
    with tempfile.TemporaryDirectory() as scratch:
        whole = {}
        for draws in (GREEDY, DRAWN):
            log = Path(scratch) / f"whole{len(draws)}.h5"
            done = subprocess.run(
                command(RANKS, *words_for(log, draws)), cwd=ROOT, capture_output=True, check=True
            )
            run = load(log)
            whole[draws] = run.tokens["token"].tolist(), done.stdout.decode()
            length_s = run.length_s
        for who in ("the end user", "a worker"):
            good = 0
            for number in range(words.times):
                node = 0 if who == "the end user" else dice.randrange(1, RANKS)
                draws, after_s = (GREEDY, DRAWN)[number % 2], dice.random() * length_s
                log = Path(scratch) / f"{node}-{who[-1]}{number}.h5"
                shown = killed(log, node, draws, after_s)
                wrong, held = judge(log, shown, text, *whole[draws])
                good += not wrong
                how = "drawn" if draws else "greedy"
                print(
                    f"node {node}, {how}, after {held} tokens: {'; '.join(wrong) or 'as it should be'}",
                    flush=True,
                )
            print(f"{who}: {good} of {words.times} as it should be", flush=True)
            failed += words.times - good
    return failed


if __name__ == "__main__":
    sys.exit(main())
