"""python -m jarvis_mpi attach: shows the answers of a run that goes on, from its record."""

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..common import process_identity, variables
from ..common.errors import Unservable
from ..common.messages import say
from ..common.options import Parser
from ..common.settings import Settings
from ..model import checkpoint
from ..model.light_imports import light_imports
from ..record.questions import Question
from ..record.reader import load
from ..record.run import Run
from .conversation import Answering
from .jobs import one_job, record_asked

ABOUT = (
    "Show the answers of a run of yours on this machine as they come, on any terminal, also when its mpirun "
    "died, or another node went on as the end user. --at HOST: on that host, by ssh. Ctrl-C leaves it "
    "alone; python -m jarvis_mpi stop ends it."
)
LOOK_S = 0.2  # between looks into the record
DISTANT = 1 << 40  # a context that no answer fills: how it ended is the record's to say


def main(words: Sequence[str]) -> int | str:
    try:
        host, words = host_asked(words)
        if host:
            return elsewhere(host, words)
        record = record_asked("attach", ABOUT, words)
        path = Path(record) if record else one_job(None).record
        if not path:
            return "the run has not begun its record yet: it still starts"
        shown = Shown(load(path))
        for run in as_it_grows(path):
            shown.show(run)
    except Unservable as error:
        return str(error)
    except KeyboardInterrupt:
        return 0
    return 0 if run.ended == "done" else f"\n{path} is not done: --resume {path} goes on with it"


def host_asked(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the host that --at names, and the other words. Raises Unservable."""
    made = Parser(prog="python -m jarvis_mpi attach", add_help=False, allow_abbrev=False)
    made.add_argument("--at", default="")
    known, others = made.parse_known_args(list(words))
    if known.at.startswith("-"):
        raise Unservable(f"--at {known.at} would be an option to ssh, not a host")
    return known.at, others


def elsewhere(host: str, words: Sequence[str]) -> int | str:
    """Attach on another host, by ssh: the package and its Python are at the same place there."""
    command = shlex.join([sys.executable, "-m", "jarvis_mpi", "attach", *words])
    try:
        return subprocess.call(
            [*variables.ssh(), "--", host, f"cd {shlex.quote(str(Path.cwd()))}; {command}"]
        )
    except (OSError, variables.Wrong) as error:
        return f"attach --at {host}: {error}"


def as_it_grows(path: Path) -> Iterator[Run]:
    """Yield the record again and again, until its run has ended or its writer has: another machine's is not
    waited for."""
    while True:
        run = load(path)
        if not (living := process_identity.lives(run.writer)):
            run = load(path)  # what it wrote before it ended
        yield run
        if run.ended or not living:
            return
        time.sleep(LOOK_S)


class Shown:
    """What of a run's answers stands on standard output: one after the other, in the order asked."""

    def __init__(self, run: Run):
        self.settings, self.text = Settings.of(run.settings), None
        try:
            folder = checkpoint.locate(self.settings.model, say, 0.0)
            with light_imports():
                from ..model.tokenizer import Text

                self.text = Text(folder)
        except Unservable as error:
            say(f"{error}: each answer is shown when it has ended")
        self.whole = 0  # questions that are shown to their end
        self.begun = False  # the next one is shown in part
        self.coming: Answering | None = None  # its answer, where the tokenizer is here

    def show(self, run: Run) -> None:
        """Show what is new in the record."""
        for question in run.questions[self.whole :]:
            if not self.show_question(question):
                break
            self.whole, self.begun = self.whole + 1, False
        sys.stdout.flush()

    def show_question(self, question: Question) -> bool:
        """Show what is new of it. -> whether it has ended."""
        if not self.begun:
            say(f"> {question.prompt}")
            self.begun = True
            self.coming = Answering(self.text, DISTANT, self.settings, question.ids) if self.text else None
        shown = ""
        if self.coming:
            for token in question.tokens[len(self.coming.shown) :]:
                sys.stdout.write(self.coming.add(token))
            shown = "".join(self.coming.shown)
        if question.ended:
            print(question.text.removeprefix(shown))
        return bool(question.ended)
