"""python -m jarvis_mpi study:
measure what skipping layers costs, for every single layer, every pair, every block.

    mpirun -n 3 python -m jarvis_mpi study --model gemma-3-270m --cases singles,pairs,blocks-8 --log study.h5
    mpirun -n 9 python -m jarvis_mpi study --tasks mmlu:FOLDER --shots 5 --cases singles --log mmlu.h5
    python -m jarvis_mpi study --tasks none --prompts FILE --cases singles --log answers.h5

Every rank holds the whole model and works on units of its own; rank 0 hands them out, writes the file, and
with `-n 1` does all by itself. A study can be continued at any moment: the same command line does what is
left.
python analysis/skip_map.py and analysis/skip_tasks.py draw it.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..common import variables
from ..common.cache_folder import Say
from ..common.errors import Unservable
from ..common.settings import DEFAULT_MODEL, DTYPES
from ..model import checkpoint
from ..net.launcher import connected, launch_size
from ..protocol.link import Lost, Silence
from ..record.study_file import StudyFile
from . import skip_cases, tasks
from .distribute import follow, lead
from .scorer import Scorer
from .tool import LeftOut, ToolParser, options, use_threads
from .wanted import WINDOW, wanted_of
from .work import StudyWorker

if TYPE_CHECKING:
    from ..net.mpi_link import MpiLink

LIMITS = {
    "tokens": (2, None), "window": (2, None), "shots": (0, None), "limit": (0, None), "answer_tokens": (1,
                                                                                                        None),
    "threads": (1, None),
}  # fmt: skip


def parser() -> ToolParser:
    made = ToolParser(
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
        help="of: text (to be predicted), mmlu:PATH, cloze:PATH, bigbench:PATH, none (default: %(default)s)",
    )
    add("--text", type=Path, help="a text to predict; by default the prose of the Python Language Reference")
    add("--tokens", type=int, default=2000, help="of the text (default: %(default)s)")
    add("--window", type=int, help=f"tokens in one go (default: {WINDOW}, or what the model takes)")
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
        help="the file, continued if it exists (default: %(default)s)",
    )
    return made


def main(words: Sequence[str]) -> int:
    asked = options(parser(), words, LIMITS)
    from ..common.messages import say

    try:
        link = connected(say) if launch_size() > 1 else None
    except (Unservable, variables.Wrong) as error:
        say(str(error))
        return 1
    me = link.me if link else 0
    speak = say if me == 0 else lambda line: None
    left_out, together, refused = LeftOut(speak), False, False
    try:
        study(asked, link, speak, left_out)
        together = True
    except (Unservable, OSError) as error:
        speak(str(error))
        refused = True
    except (Lost, Silence):
        pass
    status = 0 if together and not (me == 0 and left_out.count) else 1
    if link:
        sys.stdout.flush()
        # All ranks are refused alike. Another rank's status would make mpirun end rank 0 before it has
        # printed.
        link.leave(0 if refused and me else status, together)
    return status


def study(asked: argparse.Namespace, link: "MpiLink | None", speak: Say, left_out: LeftOut) -> None:
    """Run the study on one rank. Raises Unservable, OSError, Lost or Silence."""
    me = link.me if link else 0
    folder = checkpoint.locate(asked.model, speak, whole=True)
    from ..model.light_imports import light_imports

    with light_imports():
        from ..model import trial
        from ..model.family import dtype_of, import_family, load_config, quiet, read_config

        quiet()
        import_family(read_config(folder))
    trial.check(folder, speak)
    config = load_config(folder)
    from ..model.tokenizer import Text

    use_threads(asked.threads)
    text, dtype = Text(folder, config.vocab_size), dtype_of(config, asked.dtype)
    try:
        wanted, items, attributes = wanted_of(asked, text, config, speak, left_out)
    finally:
        left_out.tell_more()
    if me == 0:
        attributes |= {
            "model": asked.model, "fingerprint": checkpoint.fingerprint(folder), "dtype": str(dtype),
            "depth": config.num_hidden_layers,
        }  # fmt: skip
        file = StudyFile(asked.log, wanted.cases, items, wanted.prompts, attributes)
        shared, alone = skip_cases.passes(wanted.cases, config.num_hidden_layers)
        speak(
            f"{len(wanted.cases)} cases: {shared} layer passes a text with shared states, "
            f"{alone} without ({alone / shared:.2f} times)"
        )
    begun = time.monotonic()
    worker = StudyWorker(Scorer(folder, dtype, wanted.windows), text, wanted) if me or not link else None
    if me:
        assert link
        assert worker
        follow(link, worker)
        return
    lead(link, file, worker)
    file.file.close()
    took_s = time.monotonic() - begun
    draws = "skip_map" if wanted.windows else "skip_tasks"
    without = f", but for {left_out.count} that could not be scored (see above)" if left_out.count else ""
    speak(
        f"{asked.log} is whole{without}: {took_s:.0f} s in this start; "
        f"python analysis/{draws}.py {asked.log} draws it"
    )
