"""The releases of torch and transformers that this version was tried with. Others are reported, and used."""

import importlib.metadata
import re
from collections.abc import Callable, Mapping

# The first and the last; pyproject.toml has the same for pip, and tests/model/test_tried.py compares them.
TRIED: Mapping[str, tuple[str, str]] = {"torch": ("2.11", "2.14"), "transformers": ("5.21.1", "5.23")}


def untried(version_of: Callable[[str], str] = importlib.metadata.version) -> list[str]:
    """Return a sentence for each package that is older or newer than the tried releases."""
    sentences = []
    for name, (first, last) in TRIED.items():
        try:
            version = version_of(name)
        except importlib.metadata.PackageNotFoundError:  # a source tree on the path has no version
            continue
        installed, oldest, newest = map(numbers, (version, first, last))
        # Every release of the last one's line is tried: 2.14.1 is no newer than 2.14.
        newer = installed[: len(newest)] > newest
        if newer or installed < oldest:
            sentences.append(
                f"{name} {version} is {'newer' if newer else 'older'} than what this version was tried with"
                f" ({first} to {last}): if an answer looks wrong, install one of those"
            )
    return sentences


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version: 2.13.0+cpu -> 2, 13, 0, and 2.14.0rc1 the same as 2.14.0."""
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, release[0].split("."))) if release else ()
