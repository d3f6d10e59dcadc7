"""python radio.py OUTER INNER DELAY_S LOSS SEED:
carry Ethernet frames between two TAP devices, as a bad link does.

What comes in at OUTER goes out at INNER DELAY_S later, but for a share LOSS of it; the way back is free.
own_links.py starts it (`air`): netem in user space, for kernels that have none.
"""

import contextlib
import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import sys
import time
from pathlib import Path

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h
LONGEST_FRAME = 65536


def tap(name: str) -> int:
    """A new device of that name. -> its file descriptor."""
    device = os.open(Path("/dev/net/tun"), os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


def carry(outer: int, inner: int, delay_s: float, loss: float, dice: random.Random) -> None:
    """For ever."""
    waiting: list[tuple[float, int, bytes]] = []  # due, number, frame
    number = itertools.count()
    while True:
        wait_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 60.0
        ready = select.select([outer, inner], [], [], wait_s)[0]
        for device in ready:
            frame = os.read(device, LONGEST_FRAME)
            if device == inner:
                put(outer, frame)
            elif dice.random() >= loss:
                heapq.heappush(waiting, (time.monotonic() + delay_s, next(number), frame))
        while waiting and waiting[0][0] <= time.monotonic():
            put(inner, heapq.heappop(waiting)[2])


def put(device: int, frame: bytes) -> None:
    with contextlib.suppress(OSError):  # the device is down, or full: a frame more is lost
        os.write(device, frame)


if __name__ == "__main__":
    carry(
        tap(sys.argv[1]), tap(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), random.Random(sys.argv[5])
    )
