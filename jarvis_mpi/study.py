"""python -m jarvis_mpi study: what skipping a layer costs, for every single layer, every pair, every block.

    mpirun -n 3 python -m jarvis_mpi study --model gemma-3-270m --cases singles,pairs,blocks-8 --log study.h5

Every rank holds the whole model and works on cases of its own; rank 0 hands them out, keeps the file, and with `-n 1`
does all by itself. The file can be gone on with at any moment: the same command line does what is left.
"""

import argparse
import hashlib
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from . import models, skips
from .fetch import Say
from .link import Link, Lost, Silence, Unservable
from .settings import DEFAULT_MODEL, DTYPES
from .skips import Case
from .wire import Kind, Message, note, read_note

if TYPE_CHECKING:
    from .mpi_link import MpiLink
    from .stage import Head, Stage

WINDOW = 512  # tokens, each from position 0
ROWS = 64  # logits at a time: 262,144 numbers a row with Gemma 3
TASK_S = 3600.0  # the longest for one


class Task(NamedTuple):
    """All cases with the same first hole, of one window."""

    window: int
    first: int  # the depth: the whole model


class Scorer:
    """A whole model, layer by layer, and one window's states before each layer."""

    def __init__(self, folder: Path, dtype: Any, windows: Sequence[Sequence[int]]):
        from . import stage
        from .family import load_config

        self.depth = load_config(folder).num_hidden_layers
        self.head: Head = stage.Head(folder, dtype)
        self.layers: list[Stage] = [
            stage.Stage(folder, range(layer, layer + 1), dtype) for layer in range(self.depth)
        ]
        self.windows, self.window, self.before = windows, -1, [b""]

    def run(self, layer: int, body: bytes) -> bytes:
        done = self.layers[layer].run(body, 0)
        self.layers[layer].forget(0)
        return done

    def states(self, window: int) -> list[bytes]:
        """Before each layer, and after the last one."""
        if window != self.window:
            self.window, self.before = window, [self.head.embed(self.windows[window], 0)]
            for layer in range(self.depth):
                self.before.append(self.run(layer, self.before[-1]))
        return self.before

    def scores(self, task: Task, cases: Sequence[Case]) -> Iterator[tuple[Case, float]]:
        """Summed nats of the window's tokens after the first, of each case."""
        before = self.states(task.window)
        for case, body in skips.walk(cases, self.depth, task.first, before[task.first], self.run):
            yield case, nats(self.head, body, self.windows[task.window])


def nats(head: "Head", body: bytes, ids: Sequence[int]) -> float:
    """S rows -> the sum of -log p of the S - 1 tokens after the first. Head.logits gives the last row only."""
    import torch
    from torch.nn.functional import cross_entropy

    from .stage import from_bytes, positions

    total = 0.0
    with torch.inference_mode():
        h = from_bytes(body, head.width, head.dtype)
        for first in range(0, len(ids) - 1, ROWS):
            wanted = torch.tensor(ids[first + 1 : first + 1 + ROWS])
            head.gap.answer = h[:, first : first + len(wanted)]
            nothing = h.new_zeros(1, len(wanted), head.model.get_input_embeddings().embedding_dim)
            at = positions(0, len(wanted))
            logits = head.model(inputs_embeds=nothing, position_ids=at, use_cache=False).logits[0]
            total += cross_entropy(logits.float(), wanted, reduction="sum").item()
    return total


class Study:
    """The file: nats of every case and window, NaN until they are there. Raises Unservable if it is of another study."""

    def __init__(
        self, path: Path, cases: Sequence[Case], windows: Sequence[Sequence[int]], said: dict[str, Any]
    ):
        import h5py
        import numpy as np

        names = [skips.written(case) for case in cases]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file: h5py.File = h5py.File(path, "a")
        except OSError as error:
            raise Unservable(
                f"--log {path} cannot be used: {error.strerror or 'it is no HDF5 file'}"
            ) from None
        if "nats" not in self.file:
            self.file.create_dataset("nats", data=np.full((len(cases), len(windows)), np.nan))
            self.file["cases"] = names
            self.file["tokens"] = np.array([len(ids) - 1 for ids in windows], "u4")
            self.file.attrs.update(said)
            self.file.flush()
        elif (was := [name.decode() for name in self.file["cases"][:]]) != names or any(
            self.file.attrs.get(name) != value for name, value in said.items() if isinstance(value, str | int)
        ):
            raise Unservable(
                f"--log {path} is of another study ({len(was)} cases of {self.file.attrs.get('model')}): name another file"
            )
        self.row = {case: number for number, case in enumerate(cases)}

    def tasks(self) -> list[Task]:
        """What is left, window by window."""
        depth, nats = int(self.file.attrs["depth"]), self.file["nats"][:]
        left = {
            Task(window, skips.first_of(case, depth))
            for case, row in self.row.items() for window in range(nats.shape[1]) if math.isnan(nats[row, window])
        }  # fmt: skip
        return sorted(left)

    def write(self, task: Task, scores: dict[Case, float]) -> None:
        """On disk when this returns."""
        for case, nats in scores.items():
            self.file["nats"][self.row[case], task.window] = nats
        self.file.flush()


def cases_of(task: Task, cases: Sequence[Case], depth: int) -> list[Case]:
    return [case for case in cases if skips.first_of(case, depth) == task.first]


def windows_of(text: str, folder: Path, tokens: int, window: int, say: Say) -> list[list[int]]:
    """The first `tokens` token ids in windows, each begun as the model's texts begin (Gemma's do with <bos>)."""
    from .text import Text

    tokenizer = Text(folder).tokenizer
    begin = tokenizer("")["input_ids"]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][:tokens]
    if len(ids) < tokens:
        say(f"the text has only {len(ids)} tokens of the {tokens} asked for")
    step = window - len(begin)
    return [
        begin + ids[first : first + step]
        for first in range(0, len(ids), step)
        if len(ids[first : first + step]) > 1
    ]


def token_entropy(windows: Sequence[Sequence[int]]) -> float:
    """Nats a token of a guesser that knows each token's share of what is to be foretold, and reads nothing."""
    counts = Counter(token for ids in windows for token in ids[1:])
    return -sum(n / counts.total() * math.log(n / counts.total()) for n in counts.values())


def prose() -> str:
    """The long paragraphs of the Python Language Reference, which every Python carries, each once."""
    from pydoc_data.topics import topics

    paragraphs = [part for name in sorted(topics) for part in topics[name].split("\n\n")]
    long = [part for part in paragraphs if len(part) > 300 and part[0].isalpha() and part.endswith(".")]
    return "\n\n".join(dict.fromkeys(" ".join(part.split()) for part in long if "\n " not in part))


def lead(link: Link | None, study: Study, scorer: "Scorer | None", cases: Sequence[Case], depth: int) -> None:
    """Rank 0: hand out what is left, write what comes."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    tasks = study.tasks()
    columns = (
        TextColumn("cases"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    total = sum(len(cases_of(task, cases, depth)) for task in tasks)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=total)
        if scorer:
            for task in tasks:
                study.write(task, scores := dict(scorer.scores(task, cases_of(task, cases, depth))))
                progress.advance(bar, len(scores))
            return
        assert link
        waiting, idle, busy = tasks[::-1], list(range(1, link.size)), dict[int, Task]()
        while waiting or busy:
            while waiting and idle:
                busy[node := idle.pop()] = waiting.pop()
                link.send(node, note(task=list(busy[node])).pack())
            try:
                said = read_note(Message.unpack(link.receive(TASK_S)))
            except Lost as lost:
                for node in set(lost.nodes) & busy.keys():  # another does its task
                    waiting.append(busy.pop(node))
                idle = [node for node in idle if node not in lost.nodes]
                if not idle and not busy:
                    raise Unservable("no worker is left: the same command goes on from the file") from None
                continue
            except Silence:
                raise Unservable(
                    f"no worker has answered for {TASK_S:g} s: the same command goes on from the file"
                ) from None
            task = busy.pop(said["node"])
            idle.append(said["node"])
            scores = {frozenset(case): nats for case, nats in said["scores"]}
            study.write(task, scores)
            progress.advance(bar, len(scores))
        for node in idle:
            link.send(node, Message(Kind.GOODBYE).pack())
        link.flush(5.0)


def follow(link: Link, scorer: "Scorer", cases: Sequence[Case], depth: int) -> None:
    """Ranks 1..N. Raises Silence or Lost."""
    while True:
        try:
            message = Message.unpack(link.receive(TASK_S))
        except Lost as lost:
            if 0 in lost.nodes:
                raise
            continue
        if message.kind is Kind.GOODBYE:
            return
        task = Task(*read_note(message)["task"])
        scores = [[sorted(case), nats] for case, nats in scorer.scores(task, cases_of(task, cases, depth))]
        link.send(0, note(node=link.me, scores=scores).pack())


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="mpirun -n 3 python -m jarvis_mpi study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--model", default=DEFAULT_MODEL)
    made.add_argument("--dtype", default="float32", choices=DTYPES)
    made.add_argument(
        "--cases",
        default="singles,pairs,blocks-8",
        help="of: singles, pairs, blocks-N, 3+7+8 (default: %(default)s)",
    )
    made.add_argument(
        "--text", type=Path, help="a text to foretell; by default the prose of the Python Language Reference"
    )
    made.add_argument("--tokens", type=int, default=2000, help="of the text (default: %(default)s)")
    made.add_argument("--window", type=int, default=WINDOW, help="tokens in one go (default: %(default)s)")
    made.add_argument(
        "--threads",
        type=int,
        default=1,
        help="per rank; it may change the last digits (default: %(default)s)",
    )
    made.add_argument(
        "--log", type=Path, default=Path("runs/study.h5"), help="the file, gone on with if it is there"
    )
    return made


def main(words: Sequence[str]) -> int:
    asked = parser().parse_args(words)
    from .roles import say

    link = connected() if size_told() > 1 else None
    me = link.me if link else 0
    status = 0
    try:
        folder = models.locate(asked.model, say, whole=True)
        text = asked.text.read_text() if asked.text else prose()
        from .family import dtype_of, import_family, load_config, quiet
        from .light import without_compiler

        with without_compiler():
            config = load_config(folder)
            import_family(config)
        quiet()
        import torch

        torch.set_num_threads(asked.threads)
        depth = config.num_hidden_layers
        cases = skips.named(asked.cases, depth)
        windows = windows_of(text, folder, asked.tokens, asked.window, say if me == 0 else lambda line: None)
        if me == 0:
            said = {
                "model": asked.model, "fingerprint": models.fingerprint(folder), "dtype": str(dtype_of(config, asked.dtype)),
                "depth": depth, "window": asked.window, "text": hashlib.sha256(text.encode()).hexdigest()[:16],
                "token_entropy": token_entropy(windows),
            }  # fmt: skip
            study = Study(asked.log, cases, windows, said)
            shared, alone = skips.passes(cases, depth)
            say(
                f"{len(cases)} cases: {shared} layer passes a window with shared states, {alone} without ({alone / shared:.2f} times)"
            )
        begun = time.monotonic()
        scorer = Scorer(folder, dtype_of(config, asked.dtype), windows) if me or not link else None
        if me:
            assert link
            follow(link, scorer, cases, depth)  # type: ignore
        else:
            lead(link, study, scorer, cases, depth)
            study.file.close()
            say(
                f"{asked.log} is whole: {time.monotonic() - begun:.0f} s in this start; python analysis/skip_map.py {asked.log} draws it"
            )
    except (Unservable, OSError, UnicodeDecodeError) as error:
        status = 1
        if me == 0:
            print(error, file=sys.stderr)
    except (Lost, Silence):
        status = 1
    if link:
        sys.stdout.flush()
        link.leave(status, status == 0)
    return status


def connected() -> "MpiLink":
    from . import mpi_link
    from .cli import launch_rank

    return mpi_link.MpiLink(120.0, launch_rank() == 0)


def size_told() -> int:
    """How many ranks the launcher started."""
    import os

    names = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
    return next((int(os.environ[name]) for name in names if name in os.environ), 1)
