"""python benchmarks/one_process.py FOLDER DTYPE NEW_TOKENS PROMPT: transformers.generate, one compute thread.

Prints one JSON line: seconds to load, to the first token, and for every further one.
"""

import json
import sys
import time
from itertools import pairwise
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from jarvis_mpi.model.tokenizer import Text


class Watch:
    """A streamer: notes when each token comes."""

    def __init__(self):
        self.times = []

    def put(self, _tokens):
        self.times.append(time.perf_counter())

    def end(self):
        pass


def main(folder: str, dtype: str, new_tokens: str, prompt: str) -> None:
    torch.set_num_threads(1)
    begun = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    ids = torch.tensor([Text(Path(folder)).ids_of(prompt)])
    model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, pad_token_id=0
    )  # warm, as stages are
    loaded = time.perf_counter()
    watch = Watch()
    model.generate(
        ids, attention_mask=torch.ones_like(ids), streamer=watch, do_sample=False,
        max_new_tokens=int(new_tokens), min_new_tokens=int(new_tokens), pad_token_id=0,
    )  # fmt: skip
    asked, *times = watch.times  # the first put is the prompt
    steps = [b - a for a, b in pairwise(times)]
    print(
        json.dumps(
            {"load_s": loaded - begun, "first_s": times[0] - asked, "steps_s": steps, "rows": ids.shape[1]}
        )
    )


main(*sys.argv[1:])
