"""Read a text file that a person names; an error is one sentence that names the option and the file."""

import codecs
import stat
from pathlib import Path

from .errors import Unservable

MARK = "\ufeff"  # the byte order mark, which some editors put before a text
OTHERS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


class NoFile(OSError):
    """A pipe or a device, which may never end, or a folder."""

    def __init__(self) -> None:
        super().__init__(0, "it is no file")

    def __str__(self) -> str:
        return "it is no file"


def regular(path: Path) -> Path:
    """Return `path`. Raises OSError where it is no regular file, or does not exist."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise NoFile
    return path


def data_of(option: str, path: Path, advice: str = "write its text into one") -> bytes:
    """Return a file's bytes. `advice`: what can be done where it is a pipe. Raises Unservable."""
    try:
        data = regular(path).read_bytes()
    except NoFile:
        raise Unservable(f"{option} {path} is no file: {advice}") from None
    except OSError as error:
        raise Unservable(f"{option} {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise Unservable(f"{option} {str(path)!r} is no file name: {error}") from None
    if kind := other_encoding(data):
        raise Unservable(
            f"{option} {path} is {kind} text: save it as UTF-8, such as by iconv -f {kind} -t UTF-8 {path}"
        )
    return data


def text_of(option: str, path: Path) -> str:
    """Return a file's text, with plain line ends. Raises Unservable."""
    data = data_of(option, path)
    try:
        words = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Unservable(
            f"{option} {path} is not UTF-8 text in line {line}: save the file as UTF-8"
        ) from None
    return words.removeprefix(MARK).replace("\r\n", "\n").replace("\r", "\n")


def other_encoding(data: bytes) -> str:
    """Return the encoding of `data` that is not UTF-8, by its first bytes; '' where they do not show it."""
    if named := [name for mark, name in OTHERS.items() if data.startswith(mark)]:
        return named[0]
    beginning = data[:4096]
    return "UTF-16" if beginning.count(0) * 3 > len(beginning) else ""
