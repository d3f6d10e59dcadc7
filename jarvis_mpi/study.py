"""python -m jarvis_mpi study: what skipping layers costs, for every single layer, every pair, every block.

    mpirun -n 3 python -m jarvis_mpi study --model gemma-3-270m --cases singles,pairs,blocks-8 --log study.h5
    mpirun -n 9 python -m jarvis_mpi study --tasks mmlu:FOLDER --shots 5 --cases singles,blocks-3 --log mmlu.h5
    python -m jarvis_mpi study --tasks none --prompts FILE --cases singles --log answers.h5

Every rank holds the whole model and works on units of its own; rank 0 hands them out, keeps the file, and with `-n 1`
does all by itself. The file can be gone on with at any moment: the same command line does what is left.
python analysis/skip_map.py and analysis/skip_tasks.py draw it.
"""

import argparse
import contextlib
import hashlib
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from . import models, prompts, skips, tasks
from .fetch import Say
from .link import Link, Lost, Silence, Unservable
from .scorer import Encoded, Scorer, encoded
from .settings import DEFAULT_MODEL, DTYPES
from .skips import Case
from .study_file import Item, Kind, StudyFile, Unit
from .wire import Kind as MessageKind
from .wire import Message, note, read_note

if TYPE_CHECKING:
    from .mpi_link import MpiLink
    from .text import Text

WINDOW = 512  # tokens, each from position 0
CALIBRATION = 512  # tokens behind the text's, for rankings.py
UNIT_S = 3600.0  # the longest for one


class Wanted(NamedTuple):
    """All that the study scores; the same on every rank. Texts are token ids but for `prompts`."""

    cases: list[Case]
    windows: list[list[int]]
    questions: list[Encoded]
    prompts: list[str]
    prompts_ids: list[list[int]]
    answer_tokens: int
    calibration: list[int]


class Worker:
    """Does a unit. What comes out can be told as JSON."""

    def __init__(self, scorer: Scorer, text: "Text", wanted: Wanted):
        self.scorer, self.text, self.wanted = scorer, text, wanted

    def do(self, unit: Unit) -> Any:
        wanted, scorer = self.wanted, self.scorer
        if unit.kind == Kind.RANK:
            from .rankings import rank

            return rank(scorer, wanted.calibration)._asdict()
        if unit.kind == Kind.ANSWER:
            return self.answer(wanted.prompts_ids[unit.number], wanted.cases[unit.at])
        if unit.kind == Kind.TEXT:
            cases = [case for case in wanted.cases if skips.first_of(case, scorer.depth) == unit.at]
            told = scorer.windows_nats(unit.number, unit.at, cases)
            return [[sorted(case), [nats]] for case, nats in told]
        of_choices = scorer.choices_nats(wanted.questions[unit.number], wanted.cases)
        return [[sorted(case), list(nats)] for case, nats in of_choices]

    def answer(self, prompt: Sequence[int], case: Case) -> dict[str, Any]:
        """Greedy, and what a token of it costs the whole model; see grades.py."""
        scorer = self.scorer
        stages = [stage for layer, stage in enumerate(scorer.layers) if layer not in case]

        def through(body: bytes, start: int) -> bytes:
            for stage in stages:
                body = stage.run(body, start)
            return body

        said, told = scorer.answer(prompt, through, self.wanted.answer_tokens, self.text.end_ids)
        words = self.text.decode(said)
        return {"ids": said, "text": words, "nats": told}


def windows_of(
    text: str, words: "Text", tokens: int, window: int, say: Say, behind: int = 0
) -> list[list[int]]:
    """`tokens` token ids behind the first `behind`, in windows (Text.windows)."""
    ids = words.encode(text, begin=False)[behind : behind + tokens]
    if len(ids) < tokens:
        say(f"the text has only {len(ids)} tokens of the {tokens} asked for")
    begins = len(words.encode(""))
    return [window for window in words.windows(ids, window) if len(window) - begins > 1]


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


def items_of(
    windows: Sequence[Sequence[int]], asked: Sequence[tasks.Question], cut: Sequence[Encoded]
) -> list[Item]:
    found = [Item("text", "", number, 0, -1, len(ids) - 1, 0) for number, ids in enumerate(windows)]
    for number, (question, its) in enumerate(zip(asked, cut, strict=True)):
        found += [
            Item(question.task, question.subject, number, choice, question.answer,
                 len(its.ids[choice]) - its.context, len(words.strip()))
            for choice, words in enumerate(question.choices)
        ]  # fmt: skip
    return found


def lead(link: Link | None, file: StudyFile, worker: Worker | None) -> None:
    """Rank 0: hand out what is left, write what comes. Alone it does all itself."""
    from .bar import bar

    units = file.left()
    with bar(len(units), "units") as tick:
        if worker:
            for unit in units:
                file.write(unit, worker.do(unit))
                tick(1)
            return
        assert link
        waiting, idle, busy = units[::-1], list(range(1, link.size)), dict[int, Unit]()
        while waiting or busy:
            while waiting and idle:
                busy[node := idle.pop()] = waiting.pop()
                with contextlib.suppress(Lost):  # as the next message's wait will tell
                    link.send(node, note(unit=list(busy[node])).pack())
            try:
                said = read_note(Message.unpack(link.receive(UNIT_S)))
            except Lost as lost:
                for node in set(lost.nodes) & busy.keys():  # another does its work
                    waiting.append(busy.pop(node))
                idle = [node for node in idle if node not in lost.nodes]
                if not idle and not busy:
                    raise Unservable("no worker is left: the same command goes on from the file") from None
                continue
            except Silence:
                raise Unservable(
                    f"no worker has answered for {UNIT_S:g} s: the same command goes on from the file"
                ) from None
            file.write(busy.pop(said["node"]), said["came"])
            idle.append(said["node"])
            tick(1)
        for node in idle:
            with contextlib.suppress(Lost):
                link.send(node, Message(MessageKind.GOODBYE).pack())
        link.flush(5.0)


def follow(link: Link, worker: Worker) -> None:
    """Ranks 1..N. Raises Silence or Lost."""
    while True:
        try:
            message = Message.unpack(link.receive(UNIT_S))
        except Lost as lost:
            if 0 in lost.nodes:
                raise
            continue
        if message.kind is MessageKind.GOODBYE:
            return
        link.send(0, note(node=link.me, came=worker.do(Unit(*read_note(message)["unit"]))).pack())


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="mpirun -n 3 python -m jarvis_mpi study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=tasks.__doc__,
    )
    add = made.add_argument
    add("--model", default=DEFAULT_MODEL)
    add("--dtype", default="float32", choices=DTYPES)
    add(
        "--cases",
        default="singles,pairs,blocks-8",
        help="of: singles, pairs, blocks-N, 3+7+8 (default: %(default)s)",
    )
    add(
        "--tasks",
        default="text",
        help="of: text (to be foretold), mmlu:PATH, cloze:PATH, bigbench:PATH, none (default: %(default)s)",
    )
    add("--text", type=Path, help="a text to foretell; by default the prose of the Python Language Reference")
    add("--tokens", type=int, default=2000, help="of the text (default: %(default)s)")
    add("--window", type=int, default=WINDOW, help="tokens in one go (default: %(default)s)")
    add(
        "--shots",
        type=int,
        default=0,
        help="MMLU's examples before each question, its dev split's first (default: %(default)s)",
    )
    add("--shots-from", type=Path, metavar="PATH", help="where they are, if not in the folder")
    add(
        "--limit",
        type=int,
        default=0,
        help="questions of each task, drawn once for all; 0: all (default: %(default)s)",
    )
    add("--prompts", type=Path, metavar="FILE", help="one a line: answered with each case and graded")
    add("--answer-tokens", type=int, default=40, help="of an answer, at the most (default: %(default)s)")
    add(
        "--threads",
        type=int,
        default=1,
        help="per rank; it may change the last digits (default: %(default)s)",
    )
    add(
        "--log",
        type=Path,
        default=Path("runs/study.h5"),
        help="the file, gone on with if it is there (default: %(default)s)",
    )
    return made


def wanted_of(
    asked: argparse.Namespace, text: "Text", config: Any, say: Say
) -> tuple[Wanted, list[Item], dict[str, Any]]:
    """-> what is to be scored, its rows in the file, and what tells one study from another. Raises Unservable."""
    words = [word for word in asked.tasks.split(",") if word not in ("text", "none")]
    prose_text = asked.text.read_text() if asked.text else prose()
    windows = windows_of(prose_text, text, asked.tokens, asked.window, say)
    if not windows:
        raise Unservable(f"--text {asked.text} has no two tokens: give it a longer text")
    foretold = windows if "text" in asked.tasks.split(",") else []
    questions = tasks.questions(",".join(words), asked.shots, asked.shots_from, asked.limit) if words else []
    from .family import context_of

    cut = [encoded(text, question) for question in questions]
    lines = prompts.read(asked.prompts) if asked.prompts else []
    if wrong := [line.wrong for line in lines if line.wrong]:
        raise Unservable(f"--prompts {asked.prompts}: {wrong[0]}")
    prompts_ids = [text.ids_of(line.prompt) for line in lines]
    most = max((len(ids) for its in cut for ids in its.ids), default=0)
    if most > context_of(config):
        raise Unservable(
            f"a question of --tasks has {most} tokens (--shots {asked.shots}), and {asked.model} takes"
            f" {context_of(config)}: say fewer shots, or leave the task out"
        )
    behind = windows_of(prose_text, text, CALIBRATION, CALIBRATION, lambda line: None, asked.tokens)
    calibration = (behind or windows)[0]
    wanted = Wanted(
        skips.named(asked.cases, config.num_hidden_layers),
        foretold,
        cut,
        [line.prompt for line in lines],
        prompts_ids,
        asked.answer_tokens,
        calibration,
    )
    said = {
        "window": asked.window, "text": digest(prose_text) if foretold else "", "questions": digest(cut) if cut else "",
        "asked": digest([prompts_ids, asked.answer_tokens]) if lines else "", "token_entropy": token_entropy(foretold or windows),
        "shots": asked.shots,
    }  # fmt: skip
    return wanted, items_of(foretold, questions, cut), said


def digest(what: Any) -> str:
    text = what if isinstance(what, str) else json.dumps(what)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def main(words: Sequence[str]) -> int:
    asked = parser().parse_args(words)
    from .roles import say

    link = connected() if size_told() > 1 else None
    me = link.me if link else 0
    status = 0
    try:
        folder = models.locate(asked.model, say, whole=True)
        from .light import light_imports

        with light_imports():
            import torch

            from . import trial
            from .family import dtype_of, import_family, load_config, quiet, read_config

            quiet()
            import_family(read_config(folder))
        trial.check(folder, say if me == 0 else lambda line: None)
        config = load_config(folder)
        from .text import Text

        torch.set_num_threads(asked.threads)
        text, dtype = Text(folder), dtype_of(config, asked.dtype)
        wanted, items, said = wanted_of(asked, text, config, say if me == 0 else lambda line: None)
        if me == 0:
            said |= {
                "model": asked.model, "fingerprint": models.fingerprint(folder), "dtype": str(dtype),
                "depth": config.num_hidden_layers,
            }  # fmt: skip
            file = StudyFile(asked.log, wanted.cases, items, wanted.prompts, said)
            shared, alone = skips.passes(wanted.cases, config.num_hidden_layers)
            say(
                f"{len(wanted.cases)} cases: {shared} layer passes a text with shared states, {alone} without ({alone / shared:.2f} times)"
            )
        begun = time.monotonic()
        worker = Worker(Scorer(folder, dtype, wanted.windows), text, wanted) if me or not link else None
        if me:
            assert link
            assert worker
            follow(link, worker)
        else:
            lead(link, file, worker)
            file.file.close()
            took_s = time.monotonic() - begun
            draws = "skip_map" if wanted.windows else "skip_tasks"
            say(
                f"{asked.log} is whole: {took_s:.0f} s in this start; python analysis/{draws}.py {asked.log} draws it"
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
