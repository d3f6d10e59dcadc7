"""Parse settings from a command line; show them as --help and as a table."""

import argparse
import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import fields
from typing import Any

from .errors import Unservable
from .settings import Settings, flag, refuse_empty

# Options that a resumed run does not take from the one before.
OF_ONE_START = ("fault", "links", "log", "resume", "secure")


PATHS = ("log", "prompts", "resume", "patches", "study", "links")
PLAN = ("model", "split", "end_user_layers", "copies")  # which node holds what


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises an error instead of printing it, so that one rank of many can print it
    once."""

    def error(self, message: str):
        if message.endswith("expected one argument"):
            message += ": one that begins with - is written with =, as --stop=---"
        raise Unservable(f"{message} (see {self.prog[self.prog.index('python') :]} --help)")

    def parse_args(self, args=None, namespace=None):  # type: ignore[override]
        refuse_empty(args or ())
        return super().parse_args(args, namespace)


def parse(words: Sequence[str], before: Mapping[str, Any] | None = None) -> Settings:
    """Parse the command line's words to Settings; for a resumed run `before` holds the options that it had.

    Raises Unservable, or SystemExit after --help.
    """
    given = given_options(parser(), words)
    # A shell leaves ~ alone behind --option=.
    given |= {name: os.path.expanduser(given[name]) for name in PATHS if name in given}  # noqa: PTH111 (no error without a home)
    inherited = {name: value for name, value in (before or {}).items() if name not in OF_ONE_START}
    return Settings.of({**inherited, **given})


def given_options(made: argparse.ArgumentParser, words: Sequence[str]) -> dict[str, Any]:
    """Return the options that `words` give, without defaults.
    Raises Unservable, or SystemExit after --help."""
    absent = argparse.Namespace(**{action.dest: None for action in made._actions})
    return {name: value for name, value in vars(made.parse_args(words, absent)).items() if value is not None}


def parser() -> argparse.ArgumentParser:
    from .. import __version__

    made = Parser(
        prog="mpirun -hostfile hostfiles/local -n 9 python -m jarvis_mpi",
        description="One language model across all ranks: rank 0 asks and answers, the others hold layers.",
        epilog="python -m jarvis_mpi setup: prepare this Python environment (MPI's parameters, "
        "the default model);"
        " stage-model: send each host its part of a model; doctor: look at every host before a run;"
        " study: what each layer is worth; fit-patches: stand-ins for lost blocks;"
        " fit-draft: a draft model; rehearse: a testbed on this machine; analyse: draw and sum up records;"
        " attach: show a run's answers on any terminal; stop: end a run; each with --help",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=__version__)
    add_options(made, {each.name for each in fields(Settings)})
    return made


def add_options(made: argparse.ArgumentParser, names: Container[str], shown: bool = True) -> None:
    for each in fields(Settings):
        if each.name not in names:
            continue
        more = dict(each.metadata)
        kind = type(each.default)
        if kind is bool:
            more["action"] = "store_true"
        elif kind is tuple:
            more["action"] = "append"
        else:
            more.setdefault("type", kind)
        if kind in (int, float):
            more["metavar"] = {int: "N", float: "X"}[kind]
        if not shown:
            more["help"] = argparse.SUPPRESS
        default = [] if kind is tuple else each.default
        made.add_argument(flag(each.name), default=default, **more)


def preparing(command: str, about: str) -> Parser:
    """Make the parser of a tool that prepares a run, with the options of PLAN."""
    made = Parser(
        prog=f"python -m jarvis_mpi {command}",
        description=about,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add_options(made, PLAN)
    return made


def markdown() -> str:
    """Return all options as a table, for docs/options.md."""
    rows = ["| option | default | what it is |", "|---|---|---|"]
    for each in fields(Settings):
        default = (
            each.default if isinstance(each.default, int | float | str) and each.default is not False else ""
        )
        choices = f": `{'`, `'.join(each.metadata['choices'])}`" if "choices" in each.metadata else ""
        rows.append(f"| `{flag(each.name)}` | {default} | {each.metadata['help']}{choices} |")
    return "\n".join(rows)


if __name__ == "__main__":  # python -m jarvis_mpi.common.options
    from .output import run

    run(lambda: print(markdown()))
