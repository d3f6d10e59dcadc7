"""Runs rank 0 from its heavy imports on: starts the run, answers what is asked, and ends it.

This file imports torch and transformers.
"""

import contextlib
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from ..common.layers import END_USER, layers
from ..common.messages import say
from ..common.output import Unwritable
from ..model.sampler import Sampler
from ..net.handshake import Handshake, Hello
from ..net.heartbeat import beating
from ..net.shutdown import end_processes, part, release
from ..net.vitals import looking
from ..protocol.cluster import Cluster
from ..protocol.coordinator import Coordinator, compare_clocks
from ..protocol.election import NOBODY, Term
from ..protocol.events import Both
from ..protocol.link import Link
from ..protocol.node_state import State
from ..protocol.services import Parameters, Services
from ..protocol.speculation import NO_PROPOSALS, AdaptiveProposer, Proposer
from ..protocol.steps_in_flight import Pace, Patience
from ..protocol.tenure import Deposed
from ..record.writer import Record
from . import debug_log, fault_injection, resume
from .answering import Outcome, answer_all
from .conversation import Conversation
from .json_lines import Lines
from .keyboard import Keyboard
from .layout import cluster_of
from .opening import ModelFiles, RunTask
from .own_parts import OwnParts, load_own
from .run_attributes import run_attributes
from .run_description import described
from .screen import Screen, Shows
from .startup import Start, start_run
from .startup_laps import Laps
from .worker import SHUTDOWN_S

SPEAK_S = 10.0  # between questions about the workers' clocks, which drift apart by 0.1 ms or less meanwhile


def serve(link: Link, asked: RunTask, files: ModelFiles, mine: Hello, laps: Laps) -> tuple[int, bool]:
    """Start the run, answer, and end it; `mine` is rank 0's hello.

    -> exit status, and whether all ranks part together. Raises Unservable.
    """
    handshake = Handshake(link, asked.settings.start_timeout_s, time.monotonic)
    start = start_run(handshake, asked, files, mine, laps)
    torch.set_num_threads(start.threads)
    own = load_own(start)
    laps.lap("own_load_s")
    screen = screen_of(start)
    others = {node: start.layout.placement[node] for node in start.layout.hellos if node != END_USER}
    with screen.loading(others) as tell_ready:
        loaded = handshake.await_ready(start.layout.hellos, tell_ready)
    laps.lap("others_load_s")
    cluster = cluster_that_is_left(start, handshake, screen)
    screen.started(cluster, start.asked.settings.model, start.model.numbers, sum(laps.seconds.values()))
    attributes = run_attributes(start, cluster, laps.seconds, loaded)
    record, step = record_of(start.asked, attributes, handshake, screen)
    paces = {node: ready.pace for node, ready in loaded.items()}
    term = Term(standby=start.layout.standby)
    observer = Both(record, screen, *debug_log.observers())
    coordinator = coordinator_of(link, start, cluster, own, paces, observer, term)
    coordinator.step = step
    showing_life: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if term.standby != NOBODY:
        coordinator.tenure.begin(described(start, paces, attributes), handshake.missing)
        showing_life = beating(link, start.asked.settings.beat_s, partial(coordinator.tenure.beat, link))
    with showing_life:
        compare_clocks(coordinator)
        return conclude(link, start, coordinator, record, screen)


def conclude(
    link: Link, start: Start, coordinator: Coordinator, record: Record, screen: Shows
) -> tuple[int, bool]:
    """Answer what is asked, and end the run. -> as `serve`."""
    record.mirror = coordinator.tenure.replication.event
    try:
        outcome = converse(start, coordinator, record, screen)
    except Deposed as error:
        record.ended(time.perf_counter(), coordinator.step, str(error), False, {})
        record.close()
        say(str(error))
        return 1, False
    others = [node for node in range(link.size) if node != link.me]
    silent = [node for node in others if coordinator.cluster.state(node) in (State.SILENT, State.LOST)]
    peaks = part(link, silent, SHUTDOWN_S, time.monotonic)
    end_processes(start.layout.hellos, silent)
    record.ended(time.perf_counter(), coordinator.step, outcome.wrong, outcome.is_done, peaks)
    record.close()
    wrong = outcome.wrong
    try:
        for sentence in fault_injection.not_reached(start.asked.settings.fault, coordinator.step):
            screen.tell(sentence)
        screen.summary(coordinator.cluster, record.path)
        screen.answer.ended()
    except Unwritable as error:
        wrong = wrong or error.sentence
    if wrong:
        say(wrong)
    release(link, together := len(peaks) == link.size)
    return int(bool(wrong or screen.answer.lost)), together


def screen_of(start: Start) -> Shows:
    asked, shows_answers = start.asked, not start.asked.settings.prompts
    if asked.settings.json:
        return Lines(start.hosts, shows_answers)
    asks = asked.is_chat and not asked.takes_over
    return Screen(start.hosts, asks, shows_answers, in_line=asked.takes_over)


def cluster_that_is_left(start: Start, handshake: Handshake, screen: Shows) -> Cluster:
    """Return the cluster without the missing nodes, and name them to the user.
    Raises Unservable if it is too small."""
    settings, patches = start.asked.settings, start.files.patches
    cluster = cluster_of(start.layout, patches, start.model.layer_bytes)
    if patches and (without := start.layout.hellos.keys() - cluster.patchers):
        nodes = ", ".join(map(str, sorted(without)))
        screen.tell(f"node {nodes} has not this {settings.patches}: what is lost behind it is skipped")
    if patches and "patch" in cluster.policy.ladder:
        held = [block for block, node in cluster.blocks() if node != END_USER]
        if lacking := ", ".join(layers(block) for block in held if block not in patches.patched):
            screen.tell(
                f"{settings.patches} has no patch for layers {lacking} (fit-patches --workers --split)"
            )
    if settings.skip_layers:
        screen.tell(
            f"layers {settings.skip_layers} are left out (counted from 1; elsewhere layers count from 0)"
        )
    for node, sign in handshake.missing.items():
        cluster = cluster.with_event(node, sign)
        screen.tell(f"node {node} {sign.value} before the first token: it is bypassed")
    cluster.route()
    return cluster


def record_of(
    asked: RunTask, attributes: dict[str, Any], handshake: Handshake, screen: Shows
) -> tuple[Record, int]:
    """Begin or continue the run's record, with what happened at the start.
    -> it, and the first step's number."""
    before, step = asked.before, 0
    if before:
        begun = [question.step for question in before.questions]
        step = max([0, *(before.tokens["step"] + 1).tolist(), *begun])
        record = Record.resumed(asked.log, attributes, time.perf_counter(), screen, before.length_s, step)
        screen.tell(resume.continued_at(before))
        if sentence := resume.unlike(before):
            screen.tell(sentence)
    else:
        record = Record(asked.log, attributes, time.perf_counter(), screen)
    for node, sign in handshake.missing.items():
        record.sign(time.perf_counter(), step, node, sign)
    for node, last in handshake.words.items():
        Both(record, screen).last_words(time.perf_counter(), step, node, last)
    return record, step


def coordinator_of(
    link: Link, start: Start, cluster: Cluster, own: OwnParts, paces: Mapping[int, Pace], observer: Both,
    term: Term,
) -> Coordinator:  # fmt: skip
    settings = start.asked.settings
    services = Services(
        link, own.head, own.stages, Sampler(settings).choose, time.perf_counter, own.load, observer,
        vitals=looking(time.perf_counter), patch=own.patches, drafts=drafts_of(start, own, paces),
    )  # fmt: skip
    parameters = Parameters(
        start.capacity.prefill_rows,
        patience=Patience(*(getattr(settings, name) for name in Patience.__dataclass_fields__)),
        pace=paces,
        speak_s=min(SPEAK_S, settings.idle_timeout_s / 3),
        row_s=8 * own.head.width * start.model.dtype.itemsize / (1e3 * settings.slowest_link_kbit_s),
        expected_loss=start.losses,
        term=term,
    )
    return Coordinator(services, cluster, parameters)


def drafts_of(start: Start, own: OwnParts, paces: Mapping[int, Pace]) -> Proposer:
    settings = start.asked.settings
    if not settings.draft:
        return NO_PROPOSALS
    counts = start.layout.layer_counts
    row_s = sum(pace.row_s * counts[node] for node, pace in paces.items())
    return AdaptiveProposer(own.source, settings.draft_tokens, row_s, time.perf_counter)


def converse(start: Start, coordinator: Coordinator, record: Record, screen: Shows) -> Outcome:
    """Answer all that is asked. Raises Deposed where another node is the end user."""
    asked = start.asked
    with Keyboard() if asked.is_chat and not asked.takes_over else contextlib.nullcontext() as keyboard:
        conversation = Conversation(
            coordinator, start.text, start.model.context, asked.settings, record, screen,
            interrupted=lambda: keyboard is not None and keyboard.interrupts > 0,
        )  # fmt: skip
        if asked.begun and not asked.prompts:
            conversation.restore(asked.begun)
        outcome = answer_all(conversation, asked, start.capacity.answers, keyboard, screen)
        conversation.record_orphaned()
        return outcome
