"""Describes a run to its standby, which goes on with it: as JSON, the transcript's first entry.

This file imports torch and transformers.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..common.prompt_file import PromptLine
from ..common.settings import Settings
from ..net.handshake import Hello
from ..protocol.cluster import Policy
from ..protocol.expected_loss import NO_LOSS_KNOWN
from ..protocol.notes import ends
from ..protocol.steps_in_flight import Pace
from .capacity import Capacity
from .layout import Layout
from .opening import RunTask
from .startup import Start
from .successor_parts import SuccessorParts


@dataclass(frozen=True)
class RunDescription:
    """What a standby is given: the run's Start, what each node measured, and its record's attributes."""

    start: Start
    paces: Mapping[int, Pace]
    attributes: Mapping[str, Any]


def described(start: Start, paces: Mapping[int, Pace], attributes: Mapping[str, Any]) -> str:
    """Return the run as JSON; a block is [first, end]."""
    asked, layout, copied = start.asked, start.layout, start.layout.policy.copied
    return json.dumps(
        {
            "settings": asked.settings.as_dict(),
            "log": str(asked.log),
            "prompt_option": asked.prompt_option,
            "prompts": [asdict(line) for line in asked.prompts],
            "fingerprint": start.files.fingerprint,
            "hellos": [asdict(hello) for hello in layout.hellos.values()],
            "free_bytes": [*layout.free_bytes.items()],
            "placement": [*layout.placement.items()],
            "copies": [*layout.copies.items()],
            "policy": {
                **asdict(layout.policy),
                "never_skip": [*layout.policy.never_skip],
                "copied": None if copied is None else [*copied],
            },
            "standby": layout.standby,
            "capacity": asdict(start.capacity),
            "threads": start.threads,
            "hosts": [*start.hosts.items()],
            "paces": [*paces.items()],
            "attributes": attributes,
        },
        default=ends,
    )


def read(text: str, parts: SuccessorParts) -> RunDescription:
    """Return the run that `described` wrote, with the parts that this node has of it."""
    given = json.loads(text)
    policy = given["policy"]
    copied = policy["copied"]
    layout = Layout(
        {hello["node"]: Hello(**hello) for hello in given["hellos"]},
        dict(given["free_bytes"]),
        {node: tuple(range(*each) for each in blocks) for node, blocks in given["placement"]},
        {range(*block): tuple(nodes) for block, nodes in given["copies"]},
        Policy(
            tuple(policy["ladder"]),
            policy["max_skipped"],
            frozenset(policy["never_skip"]),
            policy["copies"],
            None if copied is None else frozenset(range(*each) for each in copied),
        ),
        given["standby"],
    )
    asked = RunTask(
        Settings.of(given["settings"]), (), Path(given["log"]), None, None, given["prompt_option"],
        [PromptLine(**line) for line in given["prompts"]], takes_over=True,
    )  # fmt: skip
    start = Start(
        asked, parts.files(given["fingerprint"]), parts.model, parts.text, NO_LOSS_KNOWN, layout,
        Capacity(**given["capacity"]), given["threads"], dict(given["hosts"]),
    )  # fmt: skip
    return RunDescription(start, {node: Pace(*pace) for node, pace in given["paces"]}, given["attributes"])
