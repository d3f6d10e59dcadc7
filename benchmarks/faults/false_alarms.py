"""python -m benchmarks.faults.false_alarms [--stalls 60] [--loaded 20]:
who works, or means to, is not skipped or buried.

Stalls of 10 s in the work of a worker that has no copy, in two runs side by side; then runs while every core
is loaded by something else. Counts the signs that would be false alarms. The last line is JSON.
"""

import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.arguments import parser
from benchmarks.faults.live_run import LiveRun, read
from benchmarks.faults.rows import TOKENS
from benchmarks.faults.signalled import STALL_S

SHARE = 15  # stalls of one run
FALSE = ("SILENT", "STUCK", "GIVEN_UP", "LOST", "LATE")


def stalls(log: Path, number: int) -> Counter:
    """`number` stalls, one after the other, each while the text is coming. -> signs and how often each."""
    dice = random.Random(time.time())
    run = LiveRun(log, 0, 6000, ("--never-skip", "none"), limit_s=600)
    assert run.is_ready.wait(150), run.errors.decode()
    pids = run.pids()
    os.set_blocking(run.process.stdout.fileno(), False)
    for _ in range(number):
        node = dice.choice(sorted(set(pids) - {0}))
        time.sleep(1 + dice.random())  # the text comes
        os.kill(pids[node], signal.SIGRTMIN)
        time.sleep(STALL_S + 1)
        run.process.stdout.read()
    os.kill(pids[0], signal.SIGKILL)  # long enough
    run.wait()
    return Counter(event["event"] for event in read(log)["events"] if event["event"].isupper())


def burn() -> None:
    while True:
        pass


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--stalls", type=int, default=60)
    made.add_argument("--loaded", type=int, default=20)
    words = made.parse_args()
    seen = {}
    with tempfile.TemporaryDirectory() as scratch:
        signs: Counter = Counter()
        shares = [min(SHARE, words.stalls - begun) for begun in range(0, words.stalls, SHARE)]
        with ThreadPoolExecutor(2) as pool:
            for done in pool.map(
                stalls, (Path(scratch) / f"stalls{n}.h5" for n in range(len(shares))), shares
            ):
                signs += done
                print(f"stalls of {STALL_S:g} s so far: {dict(signs)}", flush=True)
        seen["stalls"] = {"number": words.stalls, **signs}
        signs, texts = Counter(), set()
        burners = [multiprocessing.Process(target=burn, daemon=True) for _ in range(os.cpu_count() or 1)]
        for burner in burners if words.loaded else ():
            burner.start()
        for number in range(words.loaded):
            run = LiveRun(Path(scratch) / f"loaded{number}.h5", 0, TOKENS)
            run.wait()
            record = read(run.log)
            signs.update(event["event"] for event in record["events"] if event["event"].isupper())
            texts.add(tuple(record["tokens"]["token"].tolist()))
            print(f"{number + 1} loaded runs: {dict(signs)}, {len(texts)} different texts", flush=True)
        for burner in burners if words.loaded else ():
            burner.kill()
        seen["loaded"] = {"number": words.loaded, "texts": len(texts), **signs}
    for name, counts in seen.items():
        print(f"{name}: {counts['number']}, false alarms: {sum(counts.get(sign, 0) for sign in FALSE)}")
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
