"""A model's chat template is a stranger's program: it gets a few seconds, and its text has a bound.

Rendering is Python, so a trace function, which works in any thread, can end it. What a template could keep inside one call
of C are powers, products and sums: those are refused where their result would be huge.
"""

import operator
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from jinja2.sandbox import SandboxedEnvironment

from .link import Unservable

LIMIT_S = 4.0  # of the first rendering; a template takes milliseconds
LEAST_S = 0.1  # of a template that was cut off several times: each further prompt would wait as long
MOST_CHARACTERS = 1 << 20  # beside what was asked
MOST_MADE = 1 << 24  # characters of all pieces together; some are parts of others
MEND = "fetch the tokenizer's files again, or mend its chat_template"
MOST_DIGITS = 10_000  # of a number
MOST_PRODUCT = 1 << 24  # characters or items


class Patience:
    """How long the next rendering may take: half of the last one's limit after one that was cut off."""

    def __init__(self) -> None:
        self.limit_s = LIMIT_S

    @contextmanager
    def bounded(self, asked: int) -> Iterator[None]:
        """Raises Unservable inside, in this thread, once the time is over or too much text was made of `asked` characters."""
        end, before = time.monotonic() + self.limit_s, sys.gettrace()
        room = MOST_MADE + 64 * asked

        def look(frame: FrameType, event: str, argument: Any) -> Callable:
            nonlocal room
            if event == "return" and isinstance(argument, str):  # a piece of the text, or a part of a piece
                room -= len(argument)
                if room < 0:
                    raise Unservable(
                        f"the model's chat template makes too long a text of {asked} characters: {MEND}"
                    )
            if time.monotonic() > end:
                took, self.limit_s = self.limit_s, max(LEAST_S, self.limit_s / 2)
                raise Unservable(
                    f"the model's chat template was cut off after {took:g} s, it may loop for ever: {MEND}"
                )
            return look

        sys.settrace(look)
        try:
            yield
        finally:
            sys.settrace(before)


def check_size(rendered: str, asked: int) -> str:
    """`rendered`, if a prompt of `asked` characters can have become that."""
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


# jinja's own way to bound an operator: these are then neither computed while it compiles.
SandboxedEnvironment.intercepted_binops = frozenset({"**", "*", "+"})
SandboxedEnvironment.default_binop_table = {
    **SandboxedEnvironment.default_binop_table,
    "**": power,
    "*": product,
    "+": total,
}
