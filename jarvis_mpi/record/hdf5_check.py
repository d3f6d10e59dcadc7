"""Checks HDF5 files for the damage that makes the library loop for ever (HDF5 2.0).

A global heap, which holds texts of any length, is a chain of objects; after one of number 0 and length 0 the
next one is itself.
"""

import mmap
from pathlib import Path

from ..common.given_file import regular

SIGNATURE = b"\x89HDF\r\n\x1a\n"
HEAP = b"GCOL\x01\x00\x00\x00"  # a heap's first bytes; no text has them
HEADER = 16  # bytes of a heap's, and of an object's
WIDTH = 8  # bytes of an address and of a length, in all files that we know


def check(path: Path) -> None:
    """Raise OSError on such damage, as HDF5 does on other damage. What is no HDF5 file is left to HDF5."""
    with regular(path).open("rb") as file:
        start = file.read(16)
        if not start.startswith(SIGNATURE):
            return
        widths = start[13:15] if start[8] < 2 else start[9:11]
        if set(widths) != {WIDTH}:
            raise OSError(f"its addresses have {widths[0]} bytes, its lengths {widths[-1]}")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = data.find(HEAP)
            while at >= 0:
                check_heap(data, at)
                at = data.find(HEAP, at + HEADER)


def check_heap(data: mmap.mmap, at: int) -> None:
    end = at + int.from_bytes(data[at + 8 : at + HEADER], "little")
    if end > len(data):
        return  # HDF5 finds that itself, and a file that grows may have it so for a moment
    here = at + HEADER
    while here + HEADER <= end:
        number, size = (
            int.from_bytes(data[here : here + 2], "little"),
            int.from_bytes(data[here + 8 : here + HEADER], "little"),
        )
        step = HEADER + (size + 7) // 8 * 8 if number else size
        if step < HEADER or here + step > end:
            raise OSError(f"the heap at byte {at} has an object of {size} bytes at {here}")
        here += step
