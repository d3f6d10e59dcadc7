"""Reads what a run is asked and which files it is given: all that can be refused before a heavy module is
imported."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..common import prompt_file
from ..common.errors import Unservable
from ..common.messages import say
from ..common.new_file import check_path, claim
from ..common.settings import Settings
from ..model import checkpoint, generation_config, patch
from ..model.tried_releases import untried
from ..net.mpi_parameters import without_fault_tolerance
from ..net.plan import hand_settings
from ..protocol.link import Link
from ..record.links_file import Links, links_in
from ..record.questions import Question
from ..record.run import Run
from . import fault_injection, resume
from .answers import Answers
from .piped_input import MOST_BYTES, Piped
from .record_path import new_log


@dataclass(frozen=True)
class RunTask:
    """What a run is to do. `piped`: standard input; None in a chat, which reads its lines itself."""

    settings: Settings
    words: Sequence[str]  # of the command line
    log: Path  # where the record is, or will be
    before: Run | None  # the resumed run
    piped: Piped | None
    prompt_option: str | None  # --prompt, without what came on standard input
    prompts: Sequence[prompt_file.PromptLine] = ()  # of --prompts
    link_rates: Links = field(default_factory=dict)  # of the links between hosts, as doctor measured them
    begun: Sequence[Question] = ()  # what was asked before: of the resumed run, or by the end user before
    takes_over: bool = False  # from an end user whose answers were shown already
    shown_lines: int = 0  # of --prompts, by that one

    @property
    def is_chat(self) -> bool:
        return self.piped is None

    @property
    def is_done(self) -> bool:
        return self.before is not None and self.before.ended == "done"

    def with_standard_input(self) -> "RunTask":
        """Append what came there to the prompt, and say what is left out.
        Raises Unservable where it is no text."""
        settings = self.settings
        if not self.piped:
            return self
        if self.before:
            notice = resume.standard_input(self.before, self.words, self.piped)
        elif settings.prompt is None:
            notice = self.piped.left_out(f"--prompts {settings.prompts} holds all that is asked")
        else:
            prompt, notice = self.piped.appended_to(settings.prompt)
            settings = replace(settings, prompt=prompt)
        if notice:
            say(notice)
        return replace(self, settings=settings)


@dataclass(frozen=True)
class ModelFiles:
    """The model's folder, and the patches that were fitted to it."""

    folder: Path
    fingerprint: str
    patches: patch.PatchInfo | None


def open_run(link: Link, settings: Settings, words: Sequence[str]) -> RunTask:
    """Return what the command line's `words` ask, or the resumed run asked. Raises Unservable."""
    if link.size < 2:
        raise Unservable("there is no worker: start at least two ranks (mpirun -n 2 or more)")
    before = resume.read(Path(settings.resume)) if settings.resume else None
    if before:
        settings = resume.settings_of(before, words)
    is_chat = settings.prompt is None and not settings.prompts
    piped = None if is_chat else Piped(0 if settings.prompts else MOST_BYTES)
    prompt_option = (
        before.attributes.get(resume.PROMPT_OPTION, settings.prompt) if before else settings.prompt
    )
    asked = RunTask(
        settings, words, before.path if before else Path(), before, piped, prompt_option,
        begun=before.questions if before else (),
    )  # fmt: skip
    if not asked.is_done:
        asked = replace(asked, log=log_of(asked))
        if before:
            hand_settings(link, settings.as_dict())
        fault_injection.check(settings.fault, link.size)
    return replace(
        asked,
        prompts=prompt_file.read(Path(settings.prompts)) if settings.prompts else (),
        link_rates=links_in(Path(settings.links)) if settings.links and not asked.is_done else {},
    )


def log_of(asked: RunTask) -> Path:
    """Return where the record goes; a name that was asked for is claimed.
    Raises Unservable where no file can be made."""
    if asked.before:
        return asked.before.path
    log = Path(asked.settings.log) if asked.settings.log else new_log(say)
    check_path(log)
    if asked.settings.log:  # else the name is this process's own
        claim(log)
    return log


def print_done(asked: RunTask) -> int:
    """Print the answers of a resumed run that is already done. -> exit status. Raises Unservable."""
    assert asked.before
    if asked.piped and (sentence := resume.standard_input(asked.before, asked.words, asked.piped)):
        say(sentence)
    out = Answers(say)
    failed = resume.print_again(asked.before, asked.settings, asked.prompts, out)
    out.ended()
    say(f"{asked.before.path} is done: there is nothing to resume")
    return int(bool(failed or out.lost))


def find_model(link: Link, asked: RunTask) -> tuple[RunTask, ModelFiles]:
    """Find the model's files; return `asked` with the settings of its generation_config.json.
    Raises Unservable."""
    if warning := without_fault_tolerance(link.vendor):
        say(warning)
    for sentence in untried():
        say(sentence)
    folder = checkpoint.locate(asked.settings.model, say, asked.settings.start_timeout_s, whole=True)
    settings = generation_config.followed(asked.settings, folder, say)
    fingerprint = checkpoint.fingerprint(folder)
    if asked.before:
        resume.check_model(asked.before, fingerprint)
    patches = patch.read(Path(settings.patches)) if settings.patches else None
    if patches and patches.fingerprint != fingerprint:
        raise Unservable(
            f"--patches {settings.patches} was fitted to another model"
            f" (fingerprint {patches.fingerprint}, not {fingerprint})"
        )
    return replace(asked, settings=settings), ModelFiles(folder, fingerprint, patches)
