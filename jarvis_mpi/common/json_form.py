"""Check the form of JSON out of a file before anything relies on it.

    check(event, {"sequence": int, "ids": [int], "ended": str}, "its event 3")

A form is a type, a list of one form (any number of such), {str: form} (any keys), {"name": form} (at least
these keys; with a `?` behind the name it may be missing), or a tuple of forms (one of them).
"""

import json
import math
from typing import Any

from .settings import is_utf8

LONGEST = 60  # characters of a value that are shown
NO_TEXT = "holds what is no UTF-8 text, or half a character (a lone \\ud800 to \\udfff)"


def check(value: Any, form: Any, where: str) -> Any:
    """Return `value` if it has the form. Raises ValueError, which names the place."""
    match form:
        case tuple():
            if not any(fits(value, each) for each in form):
                raise wrong(value, where)
        case list():
            if not isinstance(value, list):
                raise wrong(value, where)
            for number, each in enumerate(value):
                check(each, form[0], f"{where}[{number}]")
        case dict():
            if not isinstance(value, dict):
                raise wrong(value, where)
            for key, inner in form.items():
                if key is str:
                    for name, each in value.items():
                        check(each, inner, f"{where}[{name[:LONGEST]!r}]")
                elif (name := key.removesuffix("?")) in value:
                    check(value[name], inner, f"{where}[{name!r}]")
                elif name == key:
                    raise ValueError(f"{where} has no {name}")
        case _:
            if isinstance(value, str) and not is_utf8(value):
                raise ValueError(f"{where} {NO_TEXT}")
            if not isinstance(value, form) or (isinstance(value, bool) and form in (int, float)):
                raise wrong(value, where)
    return value


def fits(value: Any, form: Any) -> bool:
    try:
        check(value, form, "")
    except ValueError:
        return False
    return True


def wrong(value: Any, where: str) -> ValueError:
    return ValueError(f"{where} is {repr(value)[:LONGEST]}, which it cannot be")


def parsed(text: str, form: Any, where: str) -> Any:
    """Parse JSON and check its form. Raises ValueError."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{where} is no JSON: {text[:LONGEST]!r}") from None
    return check(value, form, where)


def number(value: Any, least: float = -math.inf, most: float = math.inf) -> bool:
    """Return whether `value` is a finite number from `least` to `most`."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and least <= value <= most
    )
