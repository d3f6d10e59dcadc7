"""Turn whatever a library raises on a user's data into one sentence.

Files, templates and numbers of strangers make libraries raise anything, a Rust panic included. Each such call
stands in `guarded`, so that no exception of a library gets past it. Nothing is retried.
"""

import errno
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

from .errors import Shortage, Unservable

Made = TypeVar("Made")
RUST_PANIC = "PanicException"  # of tokenizers and safetensors: a BaseException, of a class without a module
LONGEST_REASON = 300  # characters
NO_FILES = ("Too many open files",)
NO_MEMORY = ("not enough memory", "allocate memory", "bad_alloc")  # in messages of torch and the system


@contextmanager
def guarded(what: str, advice: str = "") -> Iterator[None]:
    """Turn whatever the body raises into Unservable: "`what`: the library's reason: `advice`".

    `what` names the thing and what cannot be done with it, `advice` what the reader can do. Unservable passes
    as it is, and so do KeyboardInterrupt and SystemExit. Raises Shortage where the machine had too little of
    something.
    """
    try:
        yield
    except Unservable:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != RUST_PANIC:
            raise
        if lack := lacking(error):
            raise Shortage(f"{what}: {lack}") from error
        raise Unservable(": ".join(filter(None, [what, reason(error), advice]))) from error


def lacking(error: BaseException) -> str:
    """Return what this machine or process had too little of, and what to do; '' where that is not the
    reason."""
    number, words = getattr(error, "errno", None), str(error)
    if number in (errno.EMFILE, errno.ENFILE) or any(each in words for each in NO_FILES):
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"this process may have {most} files open and wants more: ulimit -n {max(1024, 2 * most)}"
    if isinstance(error, MemoryError) or number == errno.ENOMEM or any(each in words for each in NO_MEMORY):
        return f"no memory was left for it ({reason(error)}): free some"
    if (
        number == errno.EFBIG
        and (longest := resource.getrlimit(resource.RLIMIT_FSIZE)[0]) != resource.RLIM_INFINITY
    ):
        return f"this process may write files of {longest} bytes at the most: ulimit -f unlimited"
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"{reason(error)}: free some room on that disk"
    return ""


def of_model(method: Callable[..., Made]) -> Callable[..., Made]:
    """Decorate a method that builds or first runs a part of a model: errors of torch and transformers become
    Unservable."""

    @wraps(method)
    def guarding(self: Any, *args: Any, **kwargs: Any) -> Made:
        folder = getattr(self, "folder", None) or (args[0] if args else kwargs.get("folder"))
        with guarded(f"{folder} cannot be run as its config.json has it", "fetch it again"):
            return method(self, *args, **kwargs)

    return guarding


def reason(error: BaseException) -> str:
    """Return the first line of an exception's message, with the next one where a colon promises it (a
    config's field and its value), and with the exception's name where the message alone would say nothing.

    Of an OSError it is what the system says: the sentence around it names the file."""
    message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    text = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    words = printable(text[:LONGEST_REASON]).rstrip(" .:")
    if isinstance(error, (KeyError, IndexError, AttributeError, TypeError, AssertionError)) or not words:
        return f"{type(error).__name__} {words}".strip()
    return words


def printable(words: str) -> str:
    """Return `words` without control characters of a terminal, and without halves of characters, which
    nothing can write."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in words)
