"""Render a model's chat template, a stranger's program, within bounds of time, memory and text.

It is rendered in a child process (aside.py), since a single call of C can take for ever or take all memory: a
width, a precision, two lists compared. Powers, products and sums with huge results are refused by name
before.
"""

import math
import operator
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from jinja2.sandbox import SandboxedEnvironment

from ..common.errors import Unservable
from .aside import Aside, Died, Overdue

LIMIT_S = 4.0  # of the first rendering; a template takes milliseconds
LEAST_S = 0.1  # for a template that was cut off several times: each further prompt waits as long
MOST_CHARACTERS = 1 << 20  # beside what was asked
MOST_MADE = 1 << 24  # characters of all pieces together; some are parts of others
ROOM_BYTES = 1 << 28  # of memory, beside what a process has
BYTES_A_CHARACTER = 256  # and for each that is asked
MEND = "fetch the tokenizer's files again, or mend its chat_template"
MOST_DIGITS = 10_000  # of a number
MOST_PRODUCT = 1 << 24  # characters or items


Turns = list[dict[str, str]]  # of a conversation, each with its role and its content


class Renderer:
    """Calls `render` on a conversation's turns, within bounds.
    `limit_s`: processor time for the next call; it halves after each call that was cut off."""

    def __init__(self, render: Callable[[Turns], str]):
        self.render, self.limit_s = render, LIMIT_S
        self.aside = Aside(lambda turns: bounded(render, turns))

    def __call__(self, turns: Turns) -> str:
        """Return the rendered turns. Raises Unservable, also where it takes too long or too much memory."""
        try:
            return self.aside.text(turns, self.limit_s, ROOM_BYTES + BYTES_A_CHARACTER * length(turns))
        except Overdue:
            took, self.limit_s = self.limit_s, max(LEAST_S, self.limit_s / 2)
            raise Unservable(cut_off(took)) from None
        except Died:
            raise Unservable(f"the model's chat template wants too much memory, or crashes: {MEND}") from None
        except OSError:  # no process can be started: then a single call of C has no bound
            return bounded(self.render, turns, self.limit_s)


def length(turns: Turns) -> int:
    return sum(len(turn["content"]) for turn in turns)


def cut_off(limit_s: float) -> str:
    return f"the model's chat template was cut off after {limit_s:g} s of work, it may loop for ever: {MEND}"


def bounded(render: Callable[[Turns], str], turns: Turns, limit_s: float = math.inf) -> str:
    """Return what `render` makes of `turns`.
    Raises Unservable once it has made too much text, or the time is over."""
    asked = length(turns)
    end, room = time.monotonic() + limit_s, MOST_MADE + 64 * asked

    def look(frame: FrameType, event: str, argument: Any) -> Callable:
        nonlocal room
        if event == "return" and isinstance(argument, str):  # a piece of the text, or a part of a piece
            room -= len(argument)
            if room < 0:
                raise Unservable(
                    f"the model's chat template makes too long a text of {asked} characters: {MEND}"
                )
        if time.monotonic() > end:
            raise Unservable(cut_off(limit_s))
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        return check_size(render(turns), asked)
    finally:
        sys.settrace(before)


def check_size(rendered: str, asked: int) -> str:
    """Return `rendered`. Raises Unservable where it is too long for a prompt of `asked` characters."""
    if len(rendered) > MOST_CHARACTERS + 4 * asked:
        raise Unservable(f"the model's chat template made {len(rendered)} characters of {asked}: {MEND}")
    return rendered


def power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and exponent * base.bit_length() > 3 * MOST_DIGITS:
        raise Unservable(f"the model's chat template wants a number of over {MOST_DIGITS} digits: {MEND}")
    return base**exponent


def product(a: Any, b: Any) -> Any:
    for one, times in ((a, b), (b, a)):
        if (
            isinstance(one, str | bytes | list | tuple)
            and isinstance(times, int)
            and len(one) * times > MOST_PRODUCT
        ):
            raise Unservable(
                f"the model's chat template wants a text or a list of over {MOST_PRODUCT} items: {MEND}"
            )
    return operator.mul(a, b)


def total(a: Any, b: Any) -> Any:
    for kind in (str, list, tuple):
        if isinstance(a, kind) and isinstance(b, kind) and len(a) + len(b) > MOST_PRODUCT:
            raise Unservable(
                f"the model's chat template wants a text or a list of over {MOST_PRODUCT} items: {MEND}"
            )
    return operator.add(a, b)


# jinja's own way to bound an operator: it then computes none of them while it compiles.
SandboxedEnvironment.intercepted_binops = frozenset({"**", "*", "+"})
SandboxedEnvironment.default_binop_table = {
    **SandboxedEnvironment.default_binop_table,
    "**": power,
    "*": product,
    "+": total,
}
