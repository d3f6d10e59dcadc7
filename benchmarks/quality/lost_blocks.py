"""python -m benchmarks.quality.lost_blocks [--models ...] [--workers 8 5] [--tokens 2000] [--text FILE]:
what losing a block costs.

For each worker's block of the default placement, and for the end user's own first and last layer: how badly
the model foretells an English text where those layers are skipped (what came in goes on as it is), as happens
when the node dies and nobody else holds a copy. The worker dies before the text begins, so no cache remembers
it.

A block is called critical where the model without it does worse than a guesser that knows how often each
token comes in this very text and reads nothing (the entropy of the text's tokens): then context no longer
helps at all. The rule is strict, and stricter the shorter the text: in a short one the guesser's knowledge is
worth more.

The text is the prose of the Python Language Reference, which every Python carries (pydoc_data; it differs a
little from version to version), unless --text gives another. Windows of 512 tokens, each from position 0.
With as many workers as they have layers (28 for SmolLM2, 16 for Gemma 3 270M) it tells what each single layer
is worth. The last line is JSON.
"""

import json
import math
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.arguments import parser
from jarvis_mpi.common.layers import END_USER, Block, layers
from jarvis_mpi.model import checkpoint
from jarvis_mpi.model.family import dtype_of, load_config, quiet
from jarvis_mpi.model.head import Head
from jarvis_mpi.model.stage import Stage
from jarvis_mpi.model.tokenizer import Text
from jarvis_mpi.protocol.placement import place
from jarvis_mpi.study.corpus import prose, token_entropy, windows_of
from jarvis_mpi.study.scorer import nats
from jarvis_mpi.study.wanted import WINDOW


def losses(head: Head, stages: dict[Block, Stage], ids: list[int]) -> dict[Block | None, float]:
    """Skipped block (None: nothing is) -> summed nats of one window. What comes before a hole is run once."""
    states: dict[Block | None, bytes] = {None: head.embed(ids, 0)}
    for block, stage in stages.items():
        whole = states[None]
        states = {skipped: stage.run(state, 0) for skipped, state in states.items()}
        states[block] = whole
    return {skipped: nats(head, state, ids) for skipped, state in states.items()}


def harm(head: Head, folder: Path, windows: list[list[int]], workers: int) -> dict:
    """Nats a token of the full model, and with each node's block skipped."""
    num_layers = load_config(folder).num_hidden_layers
    placement = place(num_layers, workers, split="even", end_user_layers="first,last")
    held = [(node, block) for node, blocks in sorted(placement.items()) for block in blocks]
    in_order = sorted((block for _, block in held), key=lambda block: block.start)
    stages = {block: Stage(folder, block, head.dtype) for block in in_order}
    summed = Counter()
    for ids in windows:
        summed.update(losses(head, stages, ids))
    tokens = sum(len(ids) - 1 for ids in windows)
    full, guesser = summed[None] / tokens, token_entropy(windows)
    skipped = [
        {"node": node, "layers": layers(block), "nats": summed[block] / tokens,
         "more": summed[block] / tokens - full,
         "critical": summed[block] / tokens > guesser}
        for node, block in held
    ]  # fmt: skip
    return {"tokens": tokens, "full_nats": full, "guesser_nats": guesser, "skipped": skipped}


def show(title: str, found: dict) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    for name in ("skipped", "layers", "nats/token", "perplexity", "more nats than the full model", ""):
        table.add_column(name, justify="left" if name in ("skipped", "layers", "") else "right")

    def row(name: str, held: str, loss: float, verdict: str = "") -> None:
        table.add_row(
            name, held, f"{loss:.3f}", f"{math.exp(loss):,.1f}", f"{loss - found['full_nats']:.3f}", verdict
        )

    row("nothing", "", found["full_nats"])
    for each in found["skipped"]:
        node = "end user" if each["node"] == END_USER else f"worker {each['node']}"
        row(node, each["layers"], each["nats"], "critical" if each["critical"] else "")
    row("(reads nothing)", "", found["guesser_nats"])
    console = Console(highlight=False, width=110)
    console.print(table)
    critical = [str(each["node"]) for each in found["skipped"] if each["critical"] and each["node"]]
    console.print(f"critical workers: {', '.join(critical) or 'none'}\n")


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--models", nargs="+", default=["smollm2-135m-instruct", "gemma-3-270m"])
    made.add_argument("--workers", type=int, nargs="+", default=[8, 5])
    made.add_argument("--tokens", type=int, default=2000)
    made.add_argument("--dtype", default="bfloat16")
    made.add_argument("--text", type=Path)
    settings = made.parse_args()
    quiet()
    text = settings.text.read_text() if settings.text else prose()
    results = {}
    for model in settings.models:
        folder = checkpoint.locate(model, print)
        windows = windows_of(text, Text(folder), settings.tokens, WINDOW, print)
        head = Head(folder, dtype_of(load_config(folder), settings.dtype))
        results[model] = {}
        for workers in settings.workers:
            found = results[model][workers] = harm(head, folder, windows, workers)
            show(f"{model}, {settings.dtype}, {workers} workers, {found['tokens']} tokens", found)
    print(json.dumps({"dtype": settings.dtype, "text": str(settings.text or "pydoc_data"), **results}))


main()
