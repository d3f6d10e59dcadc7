"""Hands out what every worker is to hold, and reports when that is loaded."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..common.errors import Unservable
from ..common.layers import END_USER, Block
from ..common.settings import Settings, flag
from ..protocol.link import Link, Lost
from ..protocol.notes import Note, Ready
from ..protocol.placement import Placement
from ..protocol.steps_in_flight import Pace
from ..protocol.wire import Kind, read_note
from .handshake import Clock, Hello, next_message


@dataclass(frozen=True)
class Plan(Note):
    """What a worker is to hold, and how it is to run it."""

    MARK = "blocks"
    blocks: list[Block]
    copies: list[Block]
    threads: int
    dtype: str
    pieces: list[int]  # of how many rows the prompt comes
    standby: int  # the node that takes over from the end user; NOBODY: none
    end_users: list[Block]  # for it alone: what the end user holds


@dataclass(frozen=True)
class RunOptions(Note):
    """The options of a resumed run: the workers cannot see its record."""

    MARK = "options"
    options: dict[str, Any]


def free_bytes(hellos: Mapping[int, Hello]) -> dict[int, float]:
    """Return what each node may use of its host's memory, shared with the host's other ranks."""
    ranks = Counter(hello.machine for hello in hellos.values())
    return {node: hello.free_bytes / ranks[hello.machine] for node, hello in hellos.items()}


def answers_that_fit(
    wanted: int, need_bytes: Mapping[int, float], room_bytes: Mapping[int, float]
) -> tuple[int, int]:
    """Return how many answers there is memory for, and the node that allows no more.
    `need_bytes`: of one answer on each node.

    Raises Unservable where there is not enough for one.
    """
    fits = {node: int(room_bytes[node] // need) if need else wanted for node, need in need_bytes.items()}
    node = min(fits, key=lambda each: fits[each])
    if not fits[node]:
        raise Unservable(
            f"the caches of the longest answer take {need_bytes[node] / 1e6:.0f} MB on node {node}, which has"
            f" {max(room_bytes[node], 0) / 1e6:.0f} MB left: say a smaller --max-new-tokens, "
            "or give it fewer layers (--split)"
        )
    return min(wanted, fits[node]), node


def threads_for(hellos: Mapping[int, Hello], wanted: int) -> dict[int, int]:
    """Return each node's compute threads: as wanted, if it has as many cores, or the host's cores shared by
    its ranks."""
    ranks = Counter(hello.machine for hello in hellos.values())
    return {
        node: min(wanted, hello.cores) or max(1, hello.cores // ranks[hello.machine])
        for node, hello in hellos.items()
    }


def option_notices(
    hellos: Mapping[int, Hello], settings: Settings, holders: int, vocabulary: int
) -> Iterator[str]:
    """Yield a line for each option that asks for more than there is, or has no effect.
    `holders`: of a block's copies, at the most."""
    yield from idle(settings)
    few = {hello.host: hello.cores for hello in hellos.values() if hello.cores < settings.threads}
    if few:
        host = min(few, key=lambda each: few[each])
        yield (
            f"--threads {settings.threads} is more than the {few[host]} cores of {host}: a node has as many "
            "as its host's cores"
        )
    if settings.copies > holders and "copy" in settings.on_fault:
        yield f"--copies {settings.copies} is more than there are nodes for: a block has {holders} at most"
    if settings.streams and not settings.prompts:
        yield f"--streams {settings.streams} is of --prompts alone: one answer is in flight"
    if settings.give_up_s < settings.silence_s:
        yield (
            f"--give-up-s {settings.give_up_s:g} is less than --silence-s {settings.silence_s:g}: a node "
            "that falls silent is given up at once"
        )
    if settings.top_k > vocabulary:
        yield (
            f"--top-k {settings.top_k} is more than the {vocabulary} tokens that the model knows: it draws "
            "among all"
        )


def idle(settings: Settings) -> Iterator[str]:
    """Yield a line for the options that have no effect, for each reason."""
    ladder, usual = settings.on_fault, Settings()
    for names, have_effect, need in (
        (("draft_tokens",), settings.draft, "--draft"),
        (("top_k", "top_p", "seed"), settings.temperature > 0, "a --temperature above 0"),
        (("copies",), "copy" in ladder, f"copy in --on-fault, which is {ladder}"),
        (("copied_blocks",), "copy" in ladder and settings.copies, "copies (--copies, --on-fault copy)"),
        (
            ("study",),
            "skip" in ladder or "patch" in ladder or settings.copied_blocks,
            f"skip or patch in --on-fault, which is {ladder}, or --copied-blocks",
        ),
        (("patches",), "patch" in ladder, f"patch in --on-fault, which is {ladder}"),
        (("max_skipped", "never_skip"), "skip" in ladder, f"skip in --on-fault, which is {ladder}"),
    ):
        asked = {name: getattr(settings, name) for name in names}
        given = [f"{flag(name)} {value}" for name, value in asked.items() if value != getattr(usual, name)]
        if given and not have_effect:
            verb = "has no effect: it needs" if len(given) == 1 else "have no effect: they need"
            yield f"{', '.join(given)} {verb} {need}"
    for step, has_effect, need in (
        ("copy", settings.copies, "--copies"),
        ("patch", settings.patches, "--patches"),
    ):
        if ladder != usual.on_fault and step in ladder.split(",") and not has_effect:
            yield f"{step} in --on-fault {ladder} has no effect: it needs {need}"


def hand_out(
    link: Link, placement: Placement, copies: Mapping[Block, Sequence[int]], threads: Mapping[int, int],
    dtype: str, pieces: list[int], standby: int,
) -> None:  # fmt: skip
    """Tell every worker what it holds."""
    for node in threads.keys() - {END_USER}:
        copied = [block for block, nodes in copies.items() if node in nodes]
        end_users = list(placement[END_USER]) if node == standby else []
        plan = Plan(list(placement[node]), copied, threads[node], dtype, pieces, standby, end_users)
        with contextlib.suppress(Lost):
            link.send(node, plan.pack())


def receive_plan(link: Link, timeout_s: float, clock: Clock) -> Plan | None:
    """Receive a worker's plan; None if the end user has called the run off. Raises Silence or Lost."""
    message = next_message(link, timeout_s, clock)
    return None if message.kind is Kind.GOODBYE else Plan.of(read_note(message))


def hand_settings(link: Link, options: Mapping[str, Any]) -> None:
    """Tell every worker the options of a resumed run."""
    for node in range(1, link.size):
        with contextlib.suppress(Lost):
            link.send(node, RunOptions(dict(options)).pack())


def receive_settings(link: Link, timeout_s: float, clock: Clock) -> dict[str, Any] | None:
    """Receive them; None if the end user has called the run off. Raises Silence or Lost."""
    message = next_message(link, timeout_s, clock)
    return None if message.kind is Kind.GOODBYE else RunOptions.of(read_note(message)).options


def ready(link: Link, loaded_s: float, pace: Pace) -> None:
    link.send(END_USER, Ready(link.me, loaded_s, pace).pack())
