"""python -m benchmarks.speed.sealing: what it costs to seal a message at one node and to open it at the next.

Only the link's own work (jarvis_mpi/net/sealed_link.py), without MPI: a decode step, a piece of a prompt, a
beat. Medians; beside them both ciphers alone, since a processor without AES instructions is slower with AES.
The last line is JSON.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from benchmarks.arguments import parser
from jarvis_mpi.net.sealed_link import SealedLink

WIDTH, BYTES = 2048, 2  # Gemma 2B's, in bfloat16
BESIDE = 200  # a header, and hops
MESSAGES = {
    "a decode step, 1 row": WIDTH * BYTES + BESIDE,
    "a piece of a prompt, 128 rows": 128 * WIDTH * BYTES + BESIDE,
    "a beat": 59,
}
SECONDS, LEAST = 1.0, 50  # of each measurement


class Nowhere:
    """A Link of two nodes that keeps what is sent."""

    me, size, sender = 0, 2, 0

    def send(self, node: int, data: bytes) -> None:
        self.data = bytearray(data)

    def receive(self, timeout_s: float) -> bytearray:
        return self.data


def pair() -> tuple[SealedLink, SealedLink, Nowhere]:
    """-> a sender, a receiver, and what is between them."""
    key, between, there = os.urandom(32), Nowhere(), Nowhere()
    there.me = 1
    return SealedLink(between, key, print), SealedLink(there, key, print), between


def median_us(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    took, end = [], time.perf_counter() + SECONDS
    while len(took) < LEAST or time.perf_counter() < end:
        before()
        begun = time.perf_counter()
        work()
        took.append(time.perf_counter() - begun)
    return 1e6 * statistics.median(took)


def measured(size: int) -> dict[str, float]:
    sender, receiver, between = pair()
    data = os.urandom(size)

    def carry() -> None:
        sender.send(1, data)
        receiver.link.data = between.data

    sealing = median_us(lambda: sender.send(1, data)) - median_us(lambda: between.send(1, data))
    opening = median_us(lambda: receiver.receive(1.0), carry)
    carry()
    return {
        "seal_us": sealing,
        "open_us": opening,
        "more_bytes": len(between.data) - size,
        **ciphers_us(data),
    }


def ciphers_us(data: bytes) -> dict[str, float]:
    """Return what each cipher alone takes for both ends."""
    found = {}
    for cipher in (ChaCha20Poly1305, AESGCM):
        made = cipher(os.urandom(32))
        found[f"{cipher.__name__}_us"] = 2 * median_us(partial(made.encrypt, bytes(12), data, b""))
    return found


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(names) or os.cpu_count()} cores"


def main() -> None:
    parser(__doc__).parse_args()
    print(processor())
    print(
        "| message | bytes | seal, us | open, us | a hop, us | more bytes | ChaCha20 alone | AES-GCM alone |"
    )
    print("|---|---|---|---|---|---|---|---|")
    results = {}
    for name, size in MESSAGES.items():
        results[name] = found = measured(size)
        hop = found["seal_us"] + found["open_us"]
        print(
            f"| {name} | {size} | {found['seal_us']:.1f} | {found['open_us']:.1f} | {hop:.1f} | "
            f"{found['more_bytes']} | {found['ChaCha20Poly1305_us']:.1f} | {found['AESGCM_us']:.1f} |",
            flush=True,
        )
    print(json.dumps({"machine": processor(), **results}))


if __name__ == "__main__":
    main()
