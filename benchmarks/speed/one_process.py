"""python -m benchmarks.speed.one_process FOLDER DTYPE NEW_TOKENS PROMPT:
transformers.generate, one compute thread.

Prints one JSON line: seconds to load, to the first token, and for every further one.
"""

import json
import time
from itertools import pairwise
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from benchmarks.arguments import parser
from jarvis_mpi.model.tokenizer import Text


class Watch:
    """A streamer: notes when each token comes."""

    def __init__(self):
        self.times = []

    def put(self, _tokens):
        self.times.append(time.perf_counter())

    def end(self):
        pass


def main() -> None:
    made = parser(__doc__)
    made.add_argument("folder", type=Path)
    made.add_argument("dtype")
    made.add_argument("new_tokens", type=int)
    made.add_argument("prompt")
    asked = made.parse_args()
    torch.set_num_threads(1)
    begun = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(asked.folder, dtype=getattr(torch, asked.dtype)).eval()
    ids = torch.tensor([Text(asked.folder).ids_of(asked.prompt)])
    # Warm, as stages are.
    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, pad_token_id=0)
    loaded = time.perf_counter()
    watch = Watch()
    model.generate(
        ids, attention_mask=torch.ones_like(ids), streamer=watch, do_sample=False,
        max_new_tokens=asked.new_tokens, min_new_tokens=asked.new_tokens, pad_token_id=0,
    )  # fmt: skip
    asked, *times = watch.times  # the first put is the prompt
    steps = [b - a for a, b in pairwise(times)]
    print(
        json.dumps(
            {"load_s": loaded - begun, "first_s": times[0] - asked, "steps_s": steps, "rows": ids.shape[1]}
        )
    )


if __name__ == "__main__":
    main()
