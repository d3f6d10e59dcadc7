"""Asks hosts what they have: `probe` runs there, `ask_all` here, by ssh.
Whatever goes wrong on a host is that host's line."""

import json
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Any

from .. import __version__
from ..common.boundary import guarded, reason
from ..common.errors import Unservable
from ..common.json_form import LONGEST, check
from ..common.process_identity import machine
from ..model import checkpoint
from ..net.handshake import hello
from ..net.mpi_parameters import no_agent, without_fault_tolerance
from . import on_host

PROBE_S = 60.0  # for a host's answer: importing takes a while from an SD card
NUMBER = (int, float)
FORM = {
    "host": str,
    "cores": int,
    "free_bytes": int,
    "versions": {"jarvis_mpi": str, "torch": str, "transformers": str, str: str},
    "fingerprint": str,
    "layers?": ([int], type(None)),
    "lacks": str,
    "wrong_model": str,
    "time": NUMBER,
}


def probe(model: str) -> None:
    """Print what this host has, as a line of JSON."""
    answer: dict[str, Any] = {"lacks": without_fault_tolerance("Open MPI") or no_agent(), "wrong_model": ""}
    fingerprint = ""
    try:
        folder = checkpoint.locate(model, fetch=False)
        fingerprint, names = checkpoint.fingerprint(folder), checkpoint.delivered(folder)
        answer["layers"] = sorted({checkpoint.layer_of(name) for name in names} - {None}) if names else None
    except Unservable as error:
        answer["wrong_model"] = str(error)
    mine = hello(0, fingerprint)
    print(json.dumps({**answer, **vars(mine), "machine": machine(), "time": time.time()}))


def answer_of(host: str, model: str) -> dict[str, Any]:
    """Ask one host. Raises Unservable, with that host's line."""
    asked_at = time.time()
    process = on_host.start(host, "probe", model, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        out, errors = process.communicate(timeout=PROBE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Unservable(
            f"{host} does not answer within {PROBE_S:g} s: is it up, and does ssh {host} work?"
        ) from None
    heard_at = time.time()
    answer = on_host.json_object(reversed(out.splitlines()))
    if answer is None:
        lines = (errors or out).decode(errors="replace").strip().splitlines() or ["it says nothing"]
        what = (
            "cannot be reached by ssh"
            if process.returncode == 255
            else "cannot run python -m jarvis_mpi from here's path"
        )
        raise Unservable(f"{host} {what}: {lines[-1]}")
    try:
        check(answer, FORM, "its answer")
    except ValueError as error:
        raise Unservable(other_version(host, answer, error)) from None
    return {**answer, "asked_at": asked_at, "heard_at": heard_at}


def other_version(host: str, answer: dict[str, Any], error: ValueError) -> str:
    versions = answer.get("versions")
    version = versions.get("jarvis_mpi") if isinstance(versions, dict) else None
    if isinstance(version, str) and version != __version__:
        return (
            f"{host} has jarvis_mpi {version[:LONGEST]}, this machine {__version__}: install the same there"
        )
    return (
        f"{host} does not answer as jarvis_mpi {__version__} does ({reason(error)}): install the same there"
    )


def ask_all(hosts: Sequence[str], model: str) -> dict[str, Any]:
    """Ask all hosts at a time. -> host -> its answer, or that host's line, as text."""
    answers: dict[str, Any] = {}

    def ask(host: str) -> None:
        try:
            with guarded(f"{host} cannot be asked"):
                answers[host] = answer_of(host, model)
        except Unservable as error:
            answers[host] = str(error)

    threads = [threading.Thread(target=ask, args=(host,), daemon=True) for host in set(hosts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers
