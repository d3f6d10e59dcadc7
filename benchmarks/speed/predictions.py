"""analysis/predict.py against measured runs over hosts of our own (root, Linux, sshd): splits, node counts,
delays, rates, a slow node.

    python -m benchmarks.speed.predictions [--tokens 80] [--rounds 1]

One run without anything special tells the costs; everything else is predicted from it, then measured. The
last line is JSON.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks import ROOT
from benchmarks.arguments import parser, require_hosts
from jarvis_mpi.record.reader import load
from jarvis_mpi.testbed import own_hosts, own_links, own_processes

sys.path[:0] = [str(ROOT / "analysis")]
from costs import costs_of, with_slow  # noqa: E402
from prediction import Network, predicted  # noqa: E402

WORKERS = 8
PROMPT = (
    "Tell me, in order, what happens to a raindrop from the cloud to the sea, "
    "and name every river it could take. " * 3
)
BURST = 16 << 10  # of own_links.rate


class Case(NamedTuple):
    name: str
    nodes: int = 6
    split: str = "even"
    delay_ms: float = 0.0
    kbit_s: float = 0.0
    slow: float = 1.0  # node 2's factor


USUAL = Case("as it is")
CASES = (
    Case("3 nodes", nodes=3), Case("9 nodes", nodes=9), Case("split 16,3,3,3,3", split="16,3,3,3,3"),
    Case("delay 10 ms", delay_ms=10), Case("delay 25 ms", delay_ms=25), Case("delay 10 ms, 9 nodes", nodes=9,
                                                                             delay_ms=10),
    Case("5 Mbit/s", kbit_s=5000), Case("node 2 three times as slow", slow=3.0),
)  # fmt: skip


def measured(case: Case, log: Path, tokens: int) -> tuple[float, float]:
    """-> seconds to the first token, tokens/s of the others (from their median)."""
    for host in range(case.nodes):
        own_links.air(host, case.delay_ms, 0)
        own_links.rate(host, f"{case.kbit_s:.0f}kbit" if case.kbit_s else "none")
    words = [
        "--prompt",
        PROMPT,
        "--max-new-tokens",
        str(tokens),
        "--ignore-eos",
        "--threads",  # hosts here share two cores, real ones do not
        "1",
        "--split",
        case.split,
        "--log",
        str(log),
    ]
    words += ["--fault", f"slow 2 x{case.slow:g}", "--progress-s", "9"] if case.slow > 1 else []
    words += ["--slowest-link-kbit-s", str(case.kbit_s / 2)] if case.kbit_s else []
    mpi = [
        "timeout",
        "-k",
        "5",
        "150",
        "mpirun",
        "-hostfile",
        str(own_processes.STATE / "hostfile"),
        "-n",
        str(case.nodes),
    ]
    done = subprocess.run(
        own_processes.command(0, [*mpi, sys.executable, "-m", "jarvis_mpi", *words]),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    run = load(log)
    return float(run.tokens["total_s"][0]), 1 / statistics.median(run.tokens["total_s"][run.follows].tolist())


def main() -> int:
    made = parser(__doc__)
    made.add_argument("--tokens", type=int, default=80)
    made.add_argument("--rounds", type=int, default=1, help="of each; medians are told")
    words = made.parse_args()
    require_hosts()
    os.chdir(ROOT)
    rows = []
    try:
        with tempfile.TemporaryDirectory() as scratch:
            own_hosts.up(WORKERS, Path(scratch))
            logs = [Path(scratch) / f"usual{number}.h5" for number in range(words.rounds)]
            seen: dict[Case, list] = {}
            for number, log in enumerate(logs):
                seen.setdefault(USUAL, []).append(measured(USUAL, log, words.tokens))
                for case in CASES:
                    path = Path(scratch) / f"{number}-{len(seen)}-{case.name.replace(' ', '')}.h5"
                    seen.setdefault(case, []).append(measured(case, path, words.tokens))
            costs = costs_of(load(logs[len(logs) // 2]))
            prompt_rows = int(load(logs[0]).tokens["position"][0])
    finally:
        own_hosts.down()
    print(
        "| run | first token: predicted | measured | tokens/s: predicted | measured | off |\n"
        "|---|---|---|---|---|---|"
    )
    for case, found in seen.items():
        first_s, rate = (statistics.median(each) for each in zip(*found, strict=True))
        network = Network(case.delay_ms / 1e3, case.kbit_s or 1e9, BURST)
        of = with_slow(costs, case.nodes, 2, case.slow)
        told_first_s, told_rate, _ = predicted(
            of, network, case.nodes, split=case.split, prompt_rows=prompt_rows, tokens=words.tokens
        )
        off = told_rate / rate - 1
        rows.append(
            {
                **case._asdict(),
                "first_s": first_s,
                "rate": rate,
                "told_first_s": told_first_s,
                "told_rate": told_rate,
                "off": off,
            }
        )
        print(
            f"| {case.name} | {told_first_s:.2f} s | {first_s:.2f} s | {told_rate:.2f} | {rate:.2f} | "
            f"{off:+.1%} |",
            flush=True,
        )
    errors = [abs(row["off"]) for row in rows[1:]]
    print(
        f"tokens/s: median error {statistics.median(errors):.1%}, "
        f"the largest {max(errors):.1%} ({len(errors)} runs)"
    )
    print(costs)
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
