"""mpirun -n 9 python -m benchmarks.speed.hop: what a hop costs, and what ranks that wait take from the cores.

A message of one activation goes round all ranks; each keeps its core busy for a while, as a stage does.
Once with the bells of one host, once with naps only, as between hosts. The last line is JSON.
"""

import json
import statistics
import time

from benchmarks.arguments import parser
from jarvis_mpi.net.mpi_link import MpiLink

ROUNDS = 150
BYTES = 4096 + 200  # Gemma 2B's activation in bfloat16, a header and the hops


def busy(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def rounds(link: MpiLink, work_s: float) -> tuple[float, float]:
    """-> a hop's microseconds beside the work, this rank's share of a core beside its work in percent."""
    message, after = bytes(BYTES), (link.me + 1) % link.size
    begun, cpu, each = time.perf_counter(), time.process_time(), []
    for _ in range(ROUNDS):
        sent = time.perf_counter()
        if link.me == 0:
            link.send(after, message)
            link.receive(10.0)
        else:
            data = link.receive(10.0)
            busy(work_s)
            link.send(after, bytes(data))
        each.append((time.perf_counter() - sent - (link.size - 1) * work_s) / link.size)
    worked = ROUNDS * work_s if link.me else 0.0
    share = (time.process_time() - cpu - worked) / (time.perf_counter() - begun)
    return 1e6 * statistics.median(each[ROUNDS // 5 :]), 100 * share


def main() -> None:
    parser(__doc__).parse_args()
    link = MpiLink(60.0, speaks=True)
    bells = link.bell.all_on_host
    results = {}
    for name, ring in (("bells", bells), ("naps", False)):
        for work_s in (0.0, 0.005):
            link.bell.all_on_host = ring
            hop_us, share = rounds(link, work_s)
            shares = link.comm.gather(share)
            if link.me == 0:
                idle = statistics.median(shares[1:])
                results[f"{name}, {1e3 * work_s:.0f} ms of work a rank"] = {
                    "hop_us": hop_us,
                    "waiting_percent": idle,
                }
                print(
                    f"{name:5}  work {1e3 * work_s:.0f} ms: a hop {hop_us:5.0f} us, "
                    f"a waiting rank takes {idle:4.1f} % of a core",
                    flush=True,
                )
    if link.me == 0:
        print(json.dumps(results), flush=True)
    link.leave(0, together=True)


if __name__ == "__main__":
    main()
