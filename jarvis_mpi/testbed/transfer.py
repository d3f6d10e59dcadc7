"""Sends one host's part of a model, and receives it there."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ..common.boundary import guarded
from ..common.errors import Unservable
from ..common.json_form import check
from ..model import checkpoint
from . import on_host
from .probe import other_version

PIECE_BYTES = 1 << 22  # hashed and sent at a time


SAMPLE_BYTES = 64  # see checkpoint.fingerprint


SMALL = ("config.json", "generation_config.json", "model.safetensors.index.json")


MISSING = {"whole?": bool, "missing?": {str: [int]}}


Progress = Callable[[int], None]


def wanted_of(folder: Path, layers: Iterable[int]) -> tuple[dict[str, Any], int]:
    """List what a node that runs `layers` is to have, for the receiver.
    -> it, and how many bytes the tensors have."""
    if checkpoint.delivered(folder) is not None:
        raise Unservable(f"{folder} holds a part of the model only: stage-model needs the whole")
    vocabulary = vocabulary_of(folder)
    layers, tensors, weights, own_bytes = set(layers), [], {}, 0
    for path, header, data in checkpoint.headers(folder):
        ranges = [(0, data)]
        for name in sorted(header.keys() - {"__metadata__"}, key=lambda name: header[name]["data_offsets"]):
            begin, end = header[name]["data_offsets"]
            layer = checkpoint.layer_of(name)
            if layer in layers or (layer is None and header[name]["shape"][:1] != [vocabulary]):
                tensors.append(name)
                own_bytes += end - begin
                ranges += [(data + at, min(PIECE_BYTES, end - at)) for at in range(begin, end, PIECE_BYTES)]
            else:
                middle = (begin + end) // 2
                ranges.append((data + middle, min(SAMPLE_BYTES, end - middle)))
        with path.open("rb") as file:
            hashed = [(at, length, hash_of(file, at, length)) for at, length in ranges if length]
        weights[path.name] = {"size": path.stat().st_size, "ranges": hashed}
    small = {name: (folder / name).read_text() for name in SMALL if (folder / name).is_file()}
    return {
        "small": small,
        "weights": weights,
        "tensors": tensors,
        "fingerprint": checkpoint.fingerprint(folder),
    }, own_bytes


def vocabulary_of(folder: Path) -> int:
    """Return the rows of the embedding and of the output layer, which no worker needs."""
    vocabulary = json.loads((folder / "config.json").read_text()).get("vocab_size")
    if vocabulary is None:  # its family's default
        from ..model.family import load_config

        vocabulary = load_config(folder).vocab_size
    return vocabulary


def hash_of(file: BinaryIO, at: int, length: int) -> str:
    file.seek(at)
    return hashlib.sha256(file.read(length)).hexdigest()


def send(host: str, model: str, folder: Path, wanted: dict[str, Any], tell: Progress) -> int:
    """Send a host what it lacks. -> how many bytes were sent; -1: it has the whole model.
    Raises Unservable."""
    process = on_host.start(host, "receive-model", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    assert process.stderr
    sent = 0
    try:
        process.stdin.write(json.dumps({"model": model, **wanted}).encode() + b"\n")
        process.stdin.flush()
        missing = answer_of(host, process.stdout, MISSING)
        if missing.get("whole"):
            process.stdin.close()
            process.wait(timeout=30)
            return -1
        for name, numbers in asked_for(host, missing, wanted):
            with (folder / name).open("rb") as file:
                for number in numbers:
                    at, length, _ = wanted["weights"][name]["ranges"][number]
                    file.seek(at)
                    process.stdin.write(file.read(length))
                    sent += length
                    tell(sent)
        process.stdin.close()
        wrong = answer_of(host, process.stdout, {"wrong": str})["wrong"]
    except OSError:
        process.kill()
        words = process.stderr.read().decode(errors="replace").strip().splitlines()
        wrong = words[-1] if words else "the connection broke off"
    except BaseException:
        process.kill()
        raise
    process.wait(timeout=30)
    if wrong:
        raise Unservable(f"{host}: {wrong}; stage-model again sends what is missing")
    return sent


def answer_of(host: str, lines: Iterable[bytes], form: Any) -> dict[str, Any]:
    """Read the host's answer. Raises ConnectionError where none came, Unservable where it is another
    version's."""
    answer = on_host.json_object(lines)
    if answer is None:
        raise ConnectionError
    try:
        return check(answer, form, "its answer")
    except ValueError as error:
        raise Unservable(other_version(host, answer, error)) from None


def asked_for(host: str, missing: dict[str, Any], wanted: dict[str, Any]) -> Iterator[tuple[str, list[int]]]:
    """Yield what is to be sent. Raises Unservable where the host asks for what it was not offered."""
    for name, numbers in missing.get("missing", {}).items():
        offered = len(wanted["weights"].get(name, {"ranges": ()})["ranges"])
        if wrong := [number for number in numbers if not 0 <= number < offered]:
            raise Unservable(
                f"{host} asks for part {wrong[0]} of {name[:60]!r}, which it was not offered: nothing is sent"
            )
        if offered:
            yield name, numbers


def receive_here() -> str | None:
    """Receive a model on this host. -> what went wrong, for standard error."""
    try:
        with guarded("the model cannot be received"):
            receive(sys.stdin.buffer, sys.stdout.buffer)
    except Unservable as error:
        return str(error)
    return None


def receive(source: BinaryIO, answer: BinaryIO) -> None:
    """Receive what this host lacks: the other end of `send`."""
    wanted = json.loads(source.readline())
    here = checkpoint.whole_here(wanted["model"])
    if here and checkpoint.fingerprint(here) == wanted["fingerprint"]:
        answer.write(json.dumps({"whole": True}).encode() + b"\n")
        answer.flush()
        return
    folder = checkpoint.delivered_folder(wanted["model"])
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / checkpoint.MANIFEST
    manifest.unlink(missing_ok=True)  # until all is there
    for other in folder.iterdir():
        if other.name not in {*wanted["small"], *wanted["weights"]}:  # of another delivery
            other.unlink()
    for name, text in wanted["small"].items():
        (folder / name).write_text(text)
    missing = {name: lacking(folder / name, **which) for name, which in wanted["weights"].items()}
    answer.write(json.dumps({"missing": missing}).encode() + b"\n")
    answer.flush()
    wrong = ""
    for name, numbers in missing.items():
        with (folder / name).open("r+b") as file:
            for number in numbers:
                at, length, sha256 = wanted["weights"][name]["ranges"][number]
                data = source.read(length)
                if hashlib.sha256(data).hexdigest() != sha256:
                    wrong = wrong or "what came is not what was sent"
                    continue
                file.seek(at)
                file.write(data)
    if not wrong and (found := checkpoint.fingerprint(folder)) != wanted["fingerprint"]:
        wrong = f"the files there are of another model (fingerprint {found})"
    if not wrong:
        manifest.write_text(json.dumps({"fingerprint": wanted["fingerprint"], "tensors": wanted["tensors"]}))
    answer.write(json.dumps({"wrong": wrong}).encode() + b"\n")
    answer.flush()


def lacking(path: Path, size: int, ranges: Sequence[tuple[int, int, str]]) -> list[int]:
    """Return which of `ranges` are missing or damaged in the file, and give it its size."""
    path.touch()
    with path.open("r+b") as file:
        file.truncate(size)
        return [
            number
            for number, (at, length, sha256) in enumerate(ranges)
            if hash_of(file, at, length) != sha256
        ]
