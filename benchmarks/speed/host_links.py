"""python -m benchmarks.speed.host_links [--tokens 48] [--only 54mbit]:
an end user and five workers over bad links.

Six links, from a good Wi-Fi to a bad one: rate, delay and loss of every host's link (testbed/own_hosts.py:
root, Linux, sshd). Tokens/s, false alarms (signs of a fault that there was not), bytes a token and hop, and
the text beside that of the best link. The last line is JSON.
"""

import json
import os
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import ROOT
from benchmarks.arguments import parser, require_hosts
from benchmarks.chain import over_hosts
from benchmarks.faults.live_run import WORKERS, PlainRun, read
from jarvis_mpi.testbed import own_hosts, own_links, own_processes

LIMIT_S = 300


@dataclass(frozen=True)
class Air:
    """Of what leaves a host; the rate is that of both ways."""

    rate: str
    delay_ms: float
    loss_percent: float

    def __str__(self) -> str:
        return f"{self.rate}/s, {self.delay_ms:g} ms, {self.loss_percent:g} %"


AIRS = [
    Air("54mbit", 2, 0), Air("54mbit", 2, 5), Air("54mbit", 50, 0),
    Air("11mbit", 50, 5), Air("1mbit", 2, 0), Air("1mbit", 50, 5),
]  # fmt: skip


def measured(log: Path, tokens: int, air: Air) -> dict:
    """One run over the links as they are, told how slow and how lossy they are."""
    words = ["--dtype", "bfloat16", "--slowest-link-kbit-s", str(int(air.rate.removesuffix("mbit")) * 500)]
    words += ["--silence-s", "3"] if air.loss_percent else []
    run = PlainRun(log, 1, tokens, tuple(words), LIMIT_S, over_hosts(LIMIT_S))
    run.wait()
    if run.process.returncode:
        raise SystemExit(run.errors.decode())
    seen = read(log)
    decoding = seen["hops"][(seen["hops"]["step"] > 0) & (seen["hops"]["received_bytes"] > 0)]
    return {
        "first_token_s": float(seen["tokens"]["total_s"][0]),
        "tokens_per_s": 1 / statistics.median(seen["tokens"]["total_s"][1:].tolist()),
        "bytes_a_token_and_hop": statistics.mean(decoding["received_bytes"].tolist()),
        "alarms": [f"{e['event']} {e['node']} @ {e['step']}" for e in seen["events"] if e["event"].isupper()],
        "tokens": seen["tokens"]["token"].tolist(),
    }


def main() -> int:
    made = parser(__doc__)
    made.add_argument("--tokens", type=int, default=48)
    made.add_argument("--only", default="", help="links whose name has this in it")
    asked = made.parse_args()
    require_hosts()
    os.chdir(ROOT)
    results = []
    print(
        "| link | first token | tokens/s | bytes a token and hop | alarms | text |\n|---|---|---|---|---|---|"
    )
    try:
        with tempfile.TemporaryDirectory() as scratch:
            own_hosts.up(WORKERS, Path(scratch))
            for air in (air for air in AIRS if asked.only in str(air)):
                for host in own_processes.every_host():
                    own_links.air(host, air.delay_ms, air.loss_percent)
                    own_links.rate(host, air.rate)
                result = measured(Path(scratch) / f"{len(results)}.h5", asked.tokens, air)
                results.append({**asdict(air), **result})
                same = result["tokens"] == results[0]["tokens"]
                alarms = ", ".join(result["alarms"]) or "none"
                print(
                    f"| {air} | {result['first_token_s']:.1f} s | {result['tokens_per_s']:.2f} |"
                    f" {result['bytes_a_token_and_hop']:.0f} | {alarms} | {'same' if same else 'differs'} |",
                    flush=True,
                )
    finally:
        own_hosts.down()
    print(json.dumps(results))
    return sum(bool(result["alarms"]) for result in results)


if __name__ == "__main__":
    sys.exit(main())
