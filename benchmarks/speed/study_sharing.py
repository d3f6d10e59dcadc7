"""What sharing states saves the skip study: python -m benchmarks.speed.study_sharing [--model gemma-3-270m]
[--tokens 64]

All singles, pairs and blocks of up to eight layers over one window, once with what comes before a hole run
once for all cases behind it, and once each case by itself: layer passes, and seconds of them (one thread; the
output layer, which both need for every case, is left out). The states are compared: equal bit for bit.
"""

import time

import torch

from benchmarks.arguments import parser
from jarvis_mpi.common import layers
from jarvis_mpi.model import checkpoint
from jarvis_mpi.model.family import dtype_of, load_config, quiet
from jarvis_mpi.model.tokenizer import Text
from jarvis_mpi.record import study_file
from jarvis_mpi.study import skip_cases
from jarvis_mpi.study.corpus import prose
from jarvis_mpi.study.scorer import Scorer


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--model", default="gemma-3-270m")
    made.add_argument("--tokens", type=int, default=64)
    asked = made.parse_args()
    quiet()
    torch.set_num_threads(1)
    folder = checkpoint.locate(asked.model, print)
    scorer = Scorer(folder, dtype_of(load_config(folder), "float32"))
    ids = Text(folder).tokenizer(prose())["input_ids"][: asked.tokens]
    cases = skip_cases.named("singles,pairs,blocks-8", scorer.depth)
    start = scorer.head.embed(ids, 0)

    def states(part: list[layers.Case]) -> dict[layers.Case, bytes]:
        return dict(skip_cases.walk(part, scorer.depth, 0, start, scorer.run))

    states([study_file.WHOLE])  # weights read, kernels made
    begun = time.perf_counter()
    together = states(cases)
    shared_s = time.perf_counter() - begun
    alone: dict[layers.Case, bytes] = {}
    for case in cases:
        alone |= states([case])
    alone_s = time.perf_counter() - begun - shared_s
    shared, each = skip_cases.passes(cases, scorer.depth)
    print(
        f"{asked.model}, {len(cases)} cases, {len(ids)} tokens: {shared} layer passes in {shared_s:.1f} s "
        f"with shared states, {each} in {alone_s:.1f} s without ({each / shared:.2f} and "
        f"{alone_s / shared_s:.2f} times); {'equal bit for bit' if together == alone else 'NOT EQUAL'}"
    )


if __name__ == "__main__":
    main()
