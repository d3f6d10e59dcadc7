"""python -m benchmarks.faults.takeover [--tokens 500] [--dtype bfloat16]:
what a takeover costs far into a text.

A worker is killed once the text has `tokens` positions. Prints, for the step that was mended, how many
positions each stage ran and for how long, beside a full prefill of as many positions. The last line is JSON.
"""

import json
import os
import signal
import tempfile
from pathlib import Path

from benchmarks.arguments import parser
from benchmarks.faults.live_run import PROMPT, LiveRun, read
from jarvis_mpi.record.reader import load


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--tokens", type=int, default=500)
    made.add_argument("--dtype", default="bfloat16")
    made.add_argument("--node", type=int, default=3)
    words = made.parse_args()
    more = ("--dtype", words.dtype)
    with tempfile.TemporaryDirectory() as scratch:
        run = LiveRun(Path(scratch) / "takeover.h5", 1, words.tokens, more)
        assert run.is_ready.wait(150), run.errors.decode()
        while True:  # until the text is that long
            run.process.stdout.read(1)
            tokens = load(run.log).tokens
            if len(tokens) and tokens["position"][-1] + 1 >= words.tokens:
                break
        os.kill(run.pids()[words.node], signal.SIGKILL)
        run.wait()
        seen = read(run.log)
        tokens, hops = seen["tokens"], seen["hops"]
        mended = next(event["step"] for event in seen["events"] if event["event"] == "rerouted")
        prompt = " ".join([PROMPT] * 4)
        whole = LiveRun(
            Path(scratch) / "prefill.h5", 1, 2, (*more, "--prompt", prompt, "--prefill-rows", "100000")
        )
        whole.wait()
        first = read(whole.log)["tokens"][0]
        prefill_rows, prefill_s = int(first["position"]), float(first["total_s"])
    usual_s = float(sorted(tokens["total_s"])[len(tokens) // 2])
    at = tokens[tokens["step"] == mended][0]
    print(
        f"step {mended}, position {at['position']}: {1e3 * at['total_s']:.0f} ms, "
        f"a usual token {1e3 * usual_s:.0f} ms"
    )
    stages = []
    for hop in hops[hops["step"] == mended]:
        last = hop["first_layer"] + hop["layers"] - 1
        print(
            f"  node {hop['node']}, layers {hop['first_layer']}-{last}: {hop['rows']} positions, "
            f"{1e3 * hop['compute_s']:.1f} ms"
        )
        stages.append(
            {name: hop[name].item() for name in ("node", "first_layer", "layers", "rows", "compute_s")}
        )
    rate = prefill_s / prefill_rows
    print(
        f"a full prefill of {prefill_rows} positions takes {1e3 * prefill_s:.0f} ms: "
        f"{1e3 * rate * at['position']:.0f} ms for {at['position']}"
    )
    print(
        json.dumps(
            {
                "token_ms": 1e3 * usual_s,
                "mended_ms": 1e3 * float(at["total_s"]),
                "prefill_ms_for_as_many": 1e3 * rate * int(at["position"]),
                "stages": stages,
            }
        )
    )


if __name__ == "__main__":
    main()
