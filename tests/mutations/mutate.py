"""Draw damage from a seed: bytes and JSON that are a little wrong; run what reads them.

    for number in numbers():            # how many: JARVIS_MUTATIONS
        draw = random.Random(number)
        path.write_bytes(damaged(draw, good))

`survives` runs a batch in a child of its own, so that a crash or a hang of one is a failed test that names
its number.
"""

import copy
import faulthandler
import json
import os
import random
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from jarvis_mpi.common.errors import Unservable

MANY = int(os.environ.get("JARVIS_MUTATIONS") or 150)  # of each kind of file
FIRST = int(os.environ.get("JARVIS_FIRST_MUTATION") or 0)  # to repeat one
EACH_S = 30  # the time limit of one mutation
MEMORY = 2 << 30  # bytes that a reading may allocate beyond what is in use
BATCH = 50  # in a child process

STRANGE_NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    255,
    256,
    2**31 - 1,
    2**31,
    2**32,
    2**40,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
)
STRANGE = (
    None, True, False, "", "x", "\x00", "../x", "/etc/passwd", "ü" * 300, [], {}, [[]], [0], [-1], {"a": 1},
    0.5, -0.0,
    1e308, float("inf"), float("nan"), *STRANGE_NUMBERS,
)  # fmt: skip


def numbers(many: int = MANY) -> range:
    return range(FIRST, FIRST + many)


def damaged(draw: random.Random, good: bytes, within: int | None = None) -> bytes:
    """Return `good` with one to four faults in its first `within` bytes: bits and bytes changed, cut off, put
    in, doubled, zero."""
    bad, within = bytearray(good), len(good) if within is None else min(within, len(good))
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        at = draw.randrange(max(1, min(within, len(bad))))
        length = draw.choice((1, 1, 2, 4, 8, 16, 100))
        match draw.choice(
            ("bit", "byte", "byte", "cut", "insert", "delete", "double", "zero", "most", "number")
        ):
            case "bit" if bad:
                bad[at] ^= 1 << draw.randrange(8)
            case "byte" if bad:
                bad[at] = draw.randrange(256)
            case "cut":
                del bad[at:]
            case "insert":
                bad[at:at] = draw.randbytes(length)
            case "delete":
                del bad[at : at + length]
            case "double":
                bad[at:at] = bad[at : at + length]
            case "zero":
                bad[at : at + length] = bytes(len(bad[at : at + length]))
            case "most":
                bad[at : at + length] = b"\xff" * len(bad[at : at + length])
            case "number" if len(bad) >= at + 8:
                bad[at : at + 8] = (draw.choice(STRANGE_NUMBERS) % 2**64).to_bytes(8, "little")
    return bytes(bad)


def swapped(draw: random.Random, good: Any, strange: Iterable[Any] = STRANGE) -> Any:
    """Return JSON `good` with one to three of its values swapped for strange ones, taken out, renamed, or
    taken from elsewhere in it."""
    bad = copy.deepcopy(good)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        places = list(places_in(bad))
        if not places:
            return draw.choice(list(strange))
        inside, key = draw.choice(places)
        match draw.choice(("strange", "strange", "strange", "gone", "other", "near", "renamed")):
            case "strange":
                inside[key] = copy.deepcopy(draw.choice(list(strange)))
            case "gone":
                del inside[key]
            case "other":
                source, name = draw.choice(places)
                if source is not inside or name != key:
                    inside[key] = copy.deepcopy(source[name])
            case "near" if isinstance(inside[key], int | float):
                inside[key] = (
                    inside[key] + draw.choice((-1, 1, 8)) if draw.random() < 0.5 else inside[key] * 2
                )
            case "renamed" if isinstance(inside, dict):
                inside[draw.choice((f"{key}x", f"x{key}", key.upper(), ""))] = inside.pop(key)
    return bad


def places_in(value: Any) -> Iterable[tuple[Any, Any]]:
    """Yield every (dict or list, key) in `value`."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in list(pairs):
        yield value, key
        yield from places_in(each)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def sentence_or(read: Callable[[], object]) -> None:
    """Call `read`, which must succeed or raise one sentence, with no more memory than MEMORY."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    sentence = ""
    try:
        read()
    except Unservable as error:
        sentence = str(error)
        assert sentence
        assert "\n" not in sentence
        assert "MemoryError" not in sentence, sentence
        assert "allocate" not in sentence, sentence


def survives(tries: Iterable[int], one: Callable[[int], None]) -> None:
    """Call `one` with each number, in child processes; AssertionError names the numbers that crash, hang or
    raise."""
    left, wrong = list(tries), []
    for first in range(0, len(left), BATCH):
        wrong += in_a_child(left[first : first + BATCH], one)
    assert not wrong, (
        f"{len(wrong)} of {len(left)} (JARVIS_FIRST_MUTATION=N JARVIS_MUTATIONS=1 shows one):\n"
        + "\n".join(wrong)
    )


def in_a_child(batch: list[int], one: Callable[[int], None]) -> list[str]:
    wrong: list[str] = []
    while batch:
        read, write = os.pipe()
        if not (child := os.fork()):
            os.close(read)
            child_tries(batch, one, write)
        os.close(write)
        with os.fdopen(read) as pipe:
            results = [json.loads(line) for line in pipe]
        _, status = os.waitpid(child, 0)
        wrong += [f"{number}: {fault}" for number, fault in results if fault]
        done = len(results)
        if status:  # it crashed or hung in the one after the last result
            wrong.append(
                f"{batch[done]}: "
                + ("no outcome in time" if os.WEXITSTATUS(status) == 1 else f"ended with {status}")
            )
            done += 1
        batch = batch[done:]
    return wrong


def child_tries(batch: list[int], one: Callable[[int], None], write: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for number in batch:
        faulthandler.dump_traceback_later(EACH_S, exit=True, file=sys.__stderr__)
        fault = ""
        try:
            one(number)
        except BaseException:
            fault = traceback.format_exc(limit=-6)
        faulthandler.cancel_dump_traceback_later()
        os.write(write, json.dumps([number, fault]).encode() + b"\n")
    os._exit(0)
