"""Resumes a run whose end user, or whole job, died, from its record: --resume RUN.h5."""

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from ..common.boundary import guarded
from ..common.errors import Unservable
from ..common.json_form import check
from ..common.options import parse
from ..common.prompt_file import PromptLine
from ..common.settings import Settings, short
from ..record import hdf5
from ..record.questions import Question
from ..record.repair import mend
from ..record.run import Run, Unreadable
from .piped_input import JOINT, Piped

if TYPE_CHECKING:
    from .answers import Answers

KINDS: dict[type, Any] = {
    int: int,
    float: (int, float),
    str: str,
    bool: bool,
    tuple: [str],
    type(None): (str, type(None)),
}
FORM = {f"{each.name}?": KINDS[type(each.default)] for each in fields(Settings)}  # of its options
PROMPT_OPTION = "prompt_option"  # a record's attribute: --prompt, without what came on standard input
GOES_ON = 5  # the first schema whose runs can be resumed


def read(path: Path) -> Run:
    """Read the record, which nobody writes any more. Raises Unservable where it cannot be resumed."""
    try:
        run = mend(path)
    except Unreadable as error:
        raise Unservable(f"--resume: {error}") from None
    if run.ended != "done":  # before the work, not after
        try:
            hdf5.free(path)
        except OSError as error:
            raise Unservable(f"--resume {path} cannot be written: {error.strerror}") from None
    if run.schema < GOES_ON:
        raise Unservable(
            f"--resume {path} is a record of schema {run.schema}: only those of schema {GOES_ON} and later "
            "can be resumed"
        )
    for name in ("settings", "fingerprint", "hosts", "placement", "started_unix_s"):
        if name not in run.attributes:
            raise Unservable(f"--resume {path} does not say its {name}: it cannot be resumed")
    return run


def settings_of(run: Run, words: Sequence[str]) -> Settings:
    """Return the run's own options, with those in `words` in their place. Raises Unservable."""
    with guarded(f"--resume {run.path} has settings that cannot be"):
        check(run.settings, FORM | {"prompt": (str, type(None)), "prompts": str}, "its settings")
    settings = parse(words, run.settings)
    for name in ("prompt", "prompts"):
        was, now = run.settings[name], getattr(settings, name)
        if was != now and not (name == "prompt" and was and is_beginning(run, now)):
            raise Unservable(
                f"--{name} is {short(now)}, but the run in {run.path} has {short(was)}: leave --{name} away"
            )
    return replace(settings, prompt=run.settings["prompt"]).checked()


def is_beginning(run: Run, prompt: str) -> bool:
    """Whether the run was begun with `--prompt prompt` and a text on standard input behind it."""
    if (option := run.attributes.get(PROMPT_OPTION)) is not None:
        return bool(prompt == option)
    return str(run.settings["prompt"]).startswith(f"{prompt}{JOINT}")  # a record without that attribute


def standard_input(run: Run, words: Sequence[str], piped: Piped) -> str:
    """Return the notice about it; '' if nothing came, or what the run was asked with.
    Raises Unservable where it makes another question of `words`."""
    if run.settings["prompt"] is None:
        return piped.left_out(f"the run in {run.path} has its prompts")
    text = piped.text().rstrip()
    if not text or run.settings["prompt"] == text or run.settings["prompt"].endswith(f"{JOINT}{text}"):
        return ""
    if parse(words).prompt is not None:
        raise Unservable(
            f"--prompt and standard input together are another question than that of the run in {run.path}:"
            " leave --prompt away and say < /dev/null to go on with that"
        )
    return piped.left_out(f"the run in {run.path} has its question")


def check_model(run: Run, fingerprint: str) -> None:
    if run.fingerprint != fingerprint:
        raise Unservable(
            f"--resume {run.path} was made with other model files (fingerprint {run.fingerprint}, "
            f"here {fingerprint})"
        )


def unlike(run: Run) -> str:
    """Return why the text may differ from what it would be without the interruption, as one sentence; else
    ''."""
    going_on = [question.sequence for question in run.questions if not question.answered]
    if not going_on:
        return ""
    sequence = run.tokens[np.isin(run.tokens["sequence"], going_on)]
    if (len(sequence) and sequence["layers"].min() < sequence["layers"].max()) or skipped_now(run):
        return "layers were skipped before the interruption: the text goes on with all that are here now"
    return ""


def continued_at(run: Run) -> str:
    answered = sum(question.answered for question in run.questions)
    tokens = [len(question.tokens) for question in run.questions if not question.answered]
    under_way = (
        f", {'the next' if len(tokens) == 1 else 'others'} after {', '.join(map(str, tokens))} tokens"
        if tokens
        else ""
    )
    return f"{run.path} is resumed: {answered} answered{under_way}"


def skipped_now(run: Run) -> bool:
    announcements = [event.text for event in run.events if event.event == "rerouted"]
    return bool(announcements) and announcements[-1].endswith("skipped")


def print_again(run: Run, settings: Settings, asked: Sequence[PromptLine], out: "Answers | TextIO") -> int:
    """Print what a run that is done had printed: who resumes it wants its output.
    -> how many lines have an error.

    Raises Unservable where the file of prompts is no longer what it was.
    """
    failed, were = 0, [question.prompt for question in run.questions]
    refused = {
        event.payload["line"]: event.payload["error"] for event in run.events if event.event == "refused"
    }
    if asked and [each.prompt for each in asked if each.number not in refused][: len(were)] != were:
        raise Unservable(
            f"--prompts {settings.prompts} has other prompts than the run in {run.path} had: ask them "
            "without --resume"
        )
    answers = iter(run.questions)
    for each in asked:
        line: dict[str, Any] = {"line": each.number, "prompt": each.prompt}
        if each.number in refused:
            line["error"] = refused[each.number]
        elif (answer := next(answers, None)) and not answer.answered and answer.ended != "interrupted":
            line["error"] = answer.ended
        elif answer:
            line |= outcome_of(answer)
        else:
            line["error"] = f"the run in {run.path} was not asked this: ask it without --resume"
        failed += "error" in line
        print(json.dumps(line, ensure_ascii=False), file=out, flush=True)
    if settings.prompt and run.questions:
        last = run.questions[-1]
        line = {"event": "answer", "prompt": last.prompt, **outcome_of(last)}
        print(json.dumps(line, ensure_ascii=False) if settings.json else last.text, file=out, flush=True)
    return failed


def outcome_of(question: Question) -> dict[str, Any]:
    """Return what a line of JSON says of an answer."""
    return {"text": question.text, "tokens": len(question.tokens), "ended": question.ended}
