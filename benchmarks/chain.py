"""The command line of one measured run, and what can be asked of it."""

import argparse
import os
import sys
from pathlib import Path

from jarvis_mpi.record.run import Run
from jarvis_mpi.testbed import own_processes


def command(ranks: int, log: Path, *words: str, limit_s: int = 600) -> list[str]:
    """`python -m jarvis_mpi WORDS` on this machine, ended after `limit_s`, its record at `log`."""
    limited = ["timeout", "-k", "5", str(limit_s), "mpirun", "-n", str(ranks)]
    return [*limited, sys.executable, "-m", "jarvis_mpi", *words, "--log", str(log)]


def over_hosts(limit_s: int) -> list[str]:
    """`mpirun` over hosts of one's own (python -m jarvis_mpi rehearse hosts), ended after `limit_s`."""
    plain = ["mpirun", "-hostfile", str(own_processes.STATE / "hostfile"), "-x", "JARVIS_TEST"]
    plain += ["-x", "PYTHONPATH"] if "PYTHONPATH" in os.environ else []  # to measure another tree
    return own_processes.command(0, ["timeout", "-k", "5", str(limit_s), *plain])


def options(parser: argparse.ArgumentParser, model: str, tokens: int) -> None:
    """What can be asked of a run over a file of prompts; see prompts_words."""
    parser.add_argument("--model", default=model)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--tokens", type=int, default=tokens)


def prompts_words(asked: argparse.Namespace, folder: Path, prompts: Path, streams: int) -> list[str]:
    """The model in `folder`, one compute thread, so many answers in flight."""
    words = ["--model", str(folder), "--dtype", asked.dtype, "--weights", asked.weights]
    words += ["--threads", "1", "--prompts", str(prompts), "--streams", str(streams)]
    return [*words, "--max-new-tokens", str(asked.tokens)]


def tokens_a_round(record: Run) -> float:
    """After the prompts: a draft that was right has no hops of its own."""
    later = record.tokens[record.follows]
    return len(later) / int((later["hops"] > 0).sum())
