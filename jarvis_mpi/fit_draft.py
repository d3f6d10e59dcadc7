"""python -m jarvis_mpi fit-draft: a draft model, made of some of a model's own layers.

    python -m jarvis_mpi fit-draft --model M --prompts questions.txt --out draft
    mpirun -n 9 python -m jarvis_mpi --model M --draft draft

For models of which there is no smaller one with the same tokenizer. The model answers the prompts; a copy of it that has only a few of
its layers, all but some in the middle (Gromov et al., arXiv:2403.17887), learns to say the same next token (distillation: Hinton et al.,
arXiv:1503.02531). One process on one machine, once; it holds the whole model in float32. Every twentieth prompt is not learnt from:
by those is told how often a guess would be right.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import models, prompts
from .link import Unservable
from .settings import DEFAULT_MODEL

ASKED_APART = 20  # every so many prompts
PAGES = "*token*", "*.jinja", "vocab*", "merges*", "special*", "added*"  # of the tokenizer


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m jarvis_mpi fit-draft",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--model", default=DEFAULT_MODEL, help="(default: %(default)s)")
    add(
        "--prompts",
        type=Path,
        required=True,
        help="a file as for a run: of the kind that the model will be asked",
    )
    add(
        "--layers",
        type=int,
        default=0,
        help="of the draft model; 0: two thirds of the model's (default: %(default)s)",
    )
    add("--answer-tokens", type=int, default=96, help="of each answer, at the most (default: %(default)s)")
    add("--passes", type=int, default=2, help="over all answers (default: %(default)s)")
    add("--rate", type=float, default=3e-4, help="of learning (default: %(default)s)")
    add("--threads", type=int, default=0, help="0: as torch chooses (default: %(default)s)")
    add("--out", type=Path, default=Path("draft"), help="a folder (default: %(default)s)")
    return made


def taken(depth: int, count: int) -> list[int]:
    """Which layers: the first and the last ones. The middle is missed least, and as one piece less than every other layer would be."""
    first = -(-count // 2)
    return [*range(first), *range(depth - count + first, depth)]


def fit(asked: argparse.Namespace) -> None:
    """Raises Unservable."""
    from . import trial
    from .bar import bar
    from .family import load_config, quiet
    from .roles import say

    quiet()
    folder = models.locate(asked.model, say, whole=True)
    trial.check(folder, say)
    depth = load_config(folder).num_hidden_layers
    count = asked.layers or max(1, 2 * depth // 3)
    if not 0 < count < depth:
        raise Unservable(f"--layers {count} of a model that has {depth}: name fewer, and at least 1")
    for name in ("passes", "answer_tokens"):
        if (value := getattr(asked, name)) < 1:
            raise Unservable(f"--{name.replace('_', '-')} {value} teaches nothing: name 1 or more")
    questions = [each.prompt for each in prompts.read(asked.prompts) if not each.wrong]
    if len(questions) < 2 * ASKED_APART:
        raise Unservable(
            f"--prompts {asked.prompts} holds {len(questions)}: give it {2 * ASKED_APART} or more, better a thousand"
        )
    import torch

    from . import distil
    from .fit import read
    from .text import Text

    if asked.threads:
        torch.set_num_threads(asked.threads)
    text = Text(folder)
    teacher = read(folder, torch.float32)
    with bar(len(questions), "answers") as tick:
        lessons = distil.answers(teacher, text, questions, asked.answer_tokens, tick)
    apart = [lesson for at, lesson in enumerate(lessons) if at % ASKED_APART == 0]
    lessons = [lesson for at, lesson in enumerate(lessons) if at % ASKED_APART]
    say(f"{sum(len(lesson.ids) - lesson.begin for lesson in lessons)} tokens to learn from")
    pupil = distil.some_layers(teacher, folder, taken(depth, count))
    say(f"guesses that are right before it has learnt: {distil.right(pupil, apart):.0%}")

    def each(number: int) -> None:
        keep(pupil, folder, asked.out)
        asked.is_written = True
        say(f"after pass {number} of {asked.passes}: {distil.right(pupil, apart):.0%}")

    with bar(asked.passes * len(lessons), "learning") as tick:
        distil.learn(pupil, teacher, lessons, asked.passes, asked.rate, tick, each)
    say(f"{asked.out}: {count} of {depth} layers; run with --draft {asked.out}")


def keep(pupil: Any, folder: Path, out: Path) -> None:
    """In bfloat16, with the model's tokenizer."""
    import torch

    out.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.to(torch.bfloat16) for name, tensor in pupil.state_dict().items()}
    pupil.config.dtype = torch.bfloat16
    pupil.save_pretrained(out, state_dict=state)
    for page in PAGES:
        for path in folder.glob(page):
            shutil.copy(path, out)


def main(words: Sequence[str]) -> int:
    asked = parser().parse_args(words)
    asked.is_written = False
    try:
        fit(asked)
    except (Unservable, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"stopped: {asked.out} {'holds what was learnt until the last pass' if asked.is_written else 'was not written'}",
            file=sys.stderr,
        )
        return 130
    return 0
