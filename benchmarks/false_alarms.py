"""python benchmarks/false_alarms.py [--stalls 60] [--loaded 20]: who works, or means to, is not skipped or buried.

Stalls of 10 s in the work of a worker that has no copy, two runs side by side; then runs while every core is
loaded by something else, twice over. Counts the signs that would be false alarms. The last line is JSON.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from fault_matrix import Run, read
from signalled import STALL_S

FALSE = ("SILENT", "STUCK", "GIVEN_UP", "LOST", "LATE")


def stalls(run: Run, number: int, dice: random.Random) -> None:
    """`number` stalls, one after the other, each while the text is coming."""
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


def burn() -> None:
    while True:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stalls", type=int, default=60)
    parser.add_argument("--loaded", type=int, default=20)
    words = parser.parse_args()
    dice, seen = random.Random(time.time()), {}
    with tempfile.TemporaryDirectory() as scratch:
        signs: Counter = Counter()
        left = words.stalls
        while left > 0:
            share = min(left, 15)
            left -= share
            run = Run(Path(scratch) / f"stalls{left}.h5", 0, ("--never-skip", "none"), tokens=6000)
            stalls(run, share, dice)
            run.wait()
            signs.update(event["event"] for event in read(run.log)["events"] if event["event"].isupper())
            print(f"{words.stalls - left} stalls of {STALL_S:g} s: {dict(signs)}", flush=True)
        seen["stalls"] = {"number": words.stalls, **signs}
        signs, texts = Counter(), set()
        burners = [
            multiprocessing.Process(target=burn, daemon=True) for _ in range(2 * (os.cpu_count() or 1))
        ]
        for burner in burners if words.loaded else ():
            burner.start()
        for number in range(words.loaded):
            run = Run(Path(scratch) / f"loaded{number}.h5", 0)
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
