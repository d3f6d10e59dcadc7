"""What the record costs: the time to write a token and its hops, and the file's size, for 1,000 tokens of a
real run.

    python -m benchmarks.memory.record_cost runs/figures/quiet.h5        (of make figures: nine ranks)

The run's own rows are written again, token by token as the end user writes them; beside it the run's time of
a token.
"""

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.arguments import parser
from jarvis_mpi.protocol.events import Token
from jarvis_mpi.protocol.wire import Kind, Message, StageRun, Vitals
from jarvis_mpi.record.reader import load
from jarvis_mpi.record.writer import Record

TOKENS = 1000


def main() -> None:
    made = parser(__doc__)
    made.add_argument("record", type=Path, metavar="RUN.h5")
    path = made.parse_args().record
    run = load(path)
    steps = run.tokens["step"][run.follows]
    messages = []
    for step in steps:
        hops = run.hops[run.hops["step"] == step]
        runs = tuple(
            StageRun(hop["node"], range(hop["first_layer"], hop["first_layer"] + hop["layers"]),
                     int(hop["rows"]), hop["wait_s"],
                hop["compute_s"], hop["previous_send_s"], hop["received_bytes"], hop["at_s"],
                bool(hop["patch"]),
                Vitals(hop["memory_kib"], hop["temperature_c"], hop["clock_mhz"]))
            for hop in hops
        )  # fmt: skip
        messages.append(Message(Kind.STEP, step=int(step), start=int(step), rows=1, runs=runs))
    times = []
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        record = Record(Path(folder) / "run.h5", {"prompt": "hello"}, 0.0, None)
        empty = record.path.stat().st_size
        for number in range(TOKENS):
            token = Token(
                0, number, number, 42, float(number), 0.05, 0.01, (messages[number % len(messages)],)
            )
            begun = time.perf_counter()
            record.write(token)
            times.append(time.perf_counter() - begun)
        record.close()
        size = record.path.stat().st_size
    token_s = statistics.median(run.tokens["total_s"][run.follows].tolist())
    write_s = statistics.median(times)
    print(
        f"{len(run.hosts)} nodes, {len(messages[0].runs)} hops: {1e3 * write_s:.3f} ms a token "
        f"(the slowest {1e3 * max(times):.1f}), {write_s / token_s:.2%} of this run's {1e3 * token_s:.1f} ms"
    )
    print(f"{(size - empty) / 1e3:.0f} kB for {TOKENS} tokens, {empty / 1e3:.0f} kB before the first")


if __name__ == "__main__":
    main()
