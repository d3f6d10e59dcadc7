"""python -m jarvis_mpi fit-draft: make a draft model of some of a model's own layers.

    python -m jarvis_mpi fit-draft --model M --prompts questions.txt --out draft
    mpirun -n 9 python -m jarvis_mpi --model M --draft draft

For models without a smaller one with the same tokenizer. The model answers the prompts; a copy of it that has
only a few of its layers, all but some in the middle (Gromov et al., arXiv:2403.17887), learns to predict the
same next token (distillation: Hinton et al., arXiv:1503.02531). One process on one machine does it once; it
holds the whole model in float32. Every twentieth prompt is held back, to measure how often a guess would be
right.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..common.boundary import guarded
from ..common.errors import Unservable
from ..common.settings import DEFAULT_MODEL
from ..model import checkpoint
from . import askable_prompts
from .tool import LeftOut, ToolParser, options, refuse_place, use_threads

LIMITS = {
    "layers": (0, None), "answer_tokens": (1, None), "passes": (1, None), "rate": (1e-9, 1.0),
    "threads": (0, None),
}  # fmt: skip
ASKED_APART = 20  # one of 20 prompts is held back
PAGES = "*token*", "*.jinja", "vocab*", "merges*", "special*", "added*"  # the tokenizer's files


def parser() -> ToolParser:
    made = ToolParser(
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
    """Return the layers of the draft: the first and the last ones.
    The middle matters least, and less as one piece than every other layer would."""
    first = -(-count // 2)
    return [*range(first), *range(depth - count + first, depth)]


def fit(asked: argparse.Namespace) -> int:
    """Make the draft model; return how many prompts were left out. Raises Unservable."""
    from ..common.messages import say
    from ..common.progress_bar import bar
    from ..model import trial
    from ..model.family import context_of, load_config, quiet
    from ..model.tokenizer import Text

    quiet()
    folder = checkpoint.locate(asked.model, say, whole=True)
    trial.check(folder, say)
    config = load_config(folder)
    depth = config.num_hidden_layers
    count = asked.layers or max(1, 2 * depth // 3)
    if not 0 < count < depth:
        raise Unservable(f"--layers {count} of a model that has {depth}: name fewer, and at least 1")
    refuse_place("--out", asked.out, is_folder=True)
    if asked.out.resolve() == folder.resolve():
        raise Unservable(f"--out {asked.out} is the model itself, which would be lost: name another folder")
    text, left_out = Text(folder, config.vocab_size), LeftOut(say)
    questions, _ = askable_prompts.askable_in(asked.prompts, text, context_of(config), left_out)
    left_out.tell_more()
    if len(questions) < 2 * ASKED_APART:
        raise Unservable(
            f"--prompts {asked.prompts} holds {len(questions)} that can be asked: give it {2 * ASKED_APART} "
            "or more, better a thousand"
        )
    import torch

    from . import distillation
    from .whole_model import read

    use_threads(asked.threads)
    teacher = read(folder, torch.float32)
    with bar(len(questions), "answers") as tick:
        lessons = distillation.answers(teacher, text, questions, asked.answer_tokens, tick)
    apart = [lesson for at, lesson in enumerate(lessons) if at % ASKED_APART == 0]
    lessons = [lesson for at, lesson in enumerate(lessons) if at % ASKED_APART]
    say(f"{sum(len(lesson.ids) - lesson.begin for lesson in lessons)} tokens to learn from")
    pupil = distillation.some_layers(teacher, folder, taken(depth, count))
    say(f"guesses that are right before it has learnt: {distillation.right(pupil, apart):.0%}")

    def each(number: int) -> None:
        keep(pupil, folder, asked.out)
        asked.is_written = True
        say(f"after pass {number} of {asked.passes}: {distillation.right(pupil, apart):.0%}")

    with bar(asked.passes * len(lessons), "learning") as tick:
        distillation.learn(pupil, teacher, lessons, asked.passes, asked.rate, tick, each)
    without = f", without {left_out.count} of --prompts (see above)" if left_out.count else ""
    say(f"{asked.out}: {count} of {depth} layers{without}; run with --draft {asked.out}")
    return left_out.count


def keep(pupil: Any, folder: Path, out: Path) -> None:
    """Save the draft in bfloat16, with the model's tokenizer."""
    import torch

    state = {name: tensor.to(torch.bfloat16) for name, tensor in pupil.state_dict().items()}
    pupil.config.dtype = torch.bfloat16
    with guarded(f"--out {out} cannot be written"):
        out.mkdir(parents=True, exist_ok=True)
        pupil.save_pretrained(out, state_dict=state)
        for page in PAGES:
            for path in folder.glob(page):
                shutil.copy(path, out)


def main(words: Sequence[str]) -> int:
    asked = options(parser(), words, LIMITS)
    asked.is_written = False
    try:
        return 1 if fit(asked) else 0
    except (Unservable, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"stopped: {asked.out} "
            f"{'holds what was learnt until the last pass' if asked.is_written else 'was not written'}",
            file=sys.stderr,
        )
        return 130
