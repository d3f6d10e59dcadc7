"""Checks the form of the JSON in a record, so that readers can rely on it."""

from collections.abc import Mapping
from typing import Any

from ..common.json_form import check, number, parsed

# Attributes that are no JSON.
TEXTS = ("prompt", "prompt_option", "prompt_said", "model", "fingerprint", "dtype", "started")
NONE = type(None)
NUMBER = (int, float)
STARTS: dict[Any, Any] = {  # the attributes of a start
    **dict.fromkeys([f"{name}?" for name in TEXTS], (str, NONE)),
    "settings?": {"prompt": (str, NONE), "prompts?": (str, NONE), "model?": str},
    "hosts?": {str: str},
    "placement?": {str: [str]},
    "copies?": {str: [int]},
    "policy?": {"ladder": [str], "max_skipped": int, "never_skip": [int], "copied?": ([str], NONE)},
    "room?": {str: NUMBER},
    "patches?": [str],
    "patchers?": [int],
    "depth?": int,
    "writer?": {"machine": str, "space": str, "pid": int, "begun": str},
    "started_unix_s?": NUMBER,
    "clock_at_begin_s?": NUMBER,
}
ENDS = {"sentence": str}
EVENTS: dict[str, Any] = {
    "asked": {"sequence": int, "prompt": str, "ids": [int]},
    "answered": {"sequence?": int, "ended": str, "text": str},
    "refused": {"line": int, "error": str},
    "route": [[int]],
    "shrunk": [int],
    "resumed": {**STARTS, "settings": STARTS["settings?"], "hosts": STARTS["hosts?"]},
    "done": ENDS,
    "ended": ENDS,
}
SIGNS = ("LOST", "SILENT", "STALLED", "STUCK", "LATE", "GIVEN_UP", "GARBLED", "BACK", "MISSING")
PLAIN = ("rerouted", "copy", "words", "orphaned", "takeover", *SIGNS)  # their text is no JSON
MOST_PID = 1 << 31


def check_start(attributes: Mapping[str, Any], where: str) -> None:
    """Raises ValueError."""
    check(attributes, STARTS, where)
    for name in ("hosts", "placement", "room"):
        for node in attributes.get(name, ()):
            if not (node.isascii() and node.isdigit() and len(node) < 10):
                raise ValueError(f"{where}['{name}'] has a node {node[:20]!r}, which is no number")
    if "writer" in attributes and not 0 < attributes["writer"]["pid"] < MOST_PID:
        raise ValueError(f"{where}['writer'] is process {attributes['writer']['pid']}, which there cannot be")
    if not number(attributes.get("started_unix_s", 0)) or not number(attributes.get("clock_at_begin_s", 0)):
        raise ValueError(f"{where} has a time that is no number")


def check_event(name: str, text: str, schema: int, where: str) -> None:
    """Raises ValueError."""
    if name in PLAIN or (name == "answered" and schema < 4):
        return
    if name not in EVENTS:
        raise ValueError(f"{where} is a {name!r}, which there cannot be")
    payload = parsed(text, EVENTS[name], f"the text of {where} ({name})")
    if name == "resumed":
        check_start(payload, f"the text of {where} (resumed)")
    if name == "route" and not all(len(hop) in (3, 4) and min(hop) >= 0 for hop in payload):
        raise ValueError(f"the text of {where} is no route: {text[:60]}")
