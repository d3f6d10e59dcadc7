"""Goes on as the end user, in place of one that is gone.

This file imports torch and transformers.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ..common import process_identity
from ..common.errors import Unservable
from ..common.messages import say
from ..common.new_file import check_path
from ..common.prompt_file import PromptLine
from ..net.heartbeat import beating
from ..protocol.cluster import Cluster
from ..protocol.coordinator import Coordinator
from ..protocol.events import Both, Token
from ..protocol.link import Link
from ..protocol.prompt_lookup import PromptLookup
from ..protocol.standby import StandbyWorker
from ..protocol.takeover import take_over
from ..protocol.transcript import Transcript
from ..record.questions import Question, questions
from ..record.schema import SCHEMA
from ..record.tables import TYPES, Event
from ..record.writer import Record
from . import debug_log, run_description
from .layout import cluster_of
from .own_parts import OwnParts
from .record_path import new_log
from .serving import conclude, coordinator_of, screen_of
from .successor_parts import SuccessorParts


def go_on(link: Link, worker: StandbyWorker, parts: SuccessorParts) -> tuple[int, bool]:
    """Go on with the run of which the worker's transcript tells.

    -> exit status, and whether all ranks part together. Raises Unservable.
    """
    transcript, now = worker.transcript, time.perf_counter()
    run = run_description.read(transcript.run(), parts)
    asked, settings = run.start.asked, run.start.asked.settings
    if settings.draft != "text":  # a draft model takes its time to load
        settings = replace(settings, draft="")
    screen = screen_of(run.start)
    attributes = {**run.attributes, "writer": process_identity.named(os.getpid())}
    record = Record(log_of(asked.log, link.me), attributes, now, screen)
    begun = written(record, transcript, time.perf_counter())  # a row of 0 s is one that is not written yet
    record.file.add_event(now, transcript.next_step(), link.me, "takeover")
    asked = replace(
        asked, settings=settings, log=record.path, begun=begun,
        shown_lines=shown_lines(asked.prompts, begun, transcript),
    )  # fmt: skip
    start = replace(run.start, asked=asked)
    own = OwnParts(parts.head, worker.stages, worker.load, worker.patch, PromptLookup())
    observer = Both(record, screen, *debug_log.observers())

    def coordinator_with(cluster: Cluster) -> Coordinator:
        return coordinator_of(link, start, cluster, own, run.paces, observer, worker.term)

    at_start = cluster_of(start.layout, start.files.patches, start.model.layer_bytes)
    coordinator = take_over(worker, at_start, coordinator_with)
    before = transcript.cluster(at_start).end_user
    sentence = f"node {before}, the end user, is gone: node {link.me} goes on"
    screen.took_over(coordinator.cluster, f"{sentence}; record: {record.path}")
    with beating(link, settings.beat_s, partial(coordinator.tenure.beat, link)):
        return conclude(link, start, coordinator, record, screen)


def log_of(log: Path, me: int) -> Path:
    """Return where this node's record goes: beside the end user's, where that is on this machine.
    Raises Unservable."""
    own = log.with_stem(f"{log.stem}-node{me}")
    try:
        check_path(own)
    except Unservable:
        return new_log(say)
    return own


def written(record: Record, transcript: Transcript, now: float) -> list[Question]:
    """Write what was asked and answered before into the record. -> the questions."""
    events: list[Event] = []
    tokens: list[tuple[int, int, int, int]] = []
    for kind, *values in transcript.without_cut():
        if kind == "event":
            step, name, text = values
            record.file.add_event(now, step, -1, name, text=text)
            events.append(Event(0.0, step, -1, name, range(0), text))
        elif kind == "reign":
            node, step = values
            record.file.add_event(now, step, node, "takeover")
        elif kind == "copy":
            node, first, end = values
            record.copy(now, 0, node, range(first, end))
        elif kind == "token":
            sequence, step, position, token = values
            record.write(Token(sequence, step, position, token, now, 0.0, 0.0, ()))
            tokens.append((sequence, step, position, token))
    table = np.zeros(len(tokens), TYPES["tokens"])
    for row, (sequence, step, position, token) in zip(table, tokens, strict=True):
        row["sequence"], row["step"], row["position"], row["token"] = sequence, step, position, token
    return questions(events, table, SCHEMA, lambda: False)


def shown_lines(prompts: Sequence[PromptLine], begun: Sequence[Question], transcript: Transcript) -> int:
    """Return how many lines of --prompts were printed: one after the other, as they were answered."""
    refused = {json.loads(text)["line"] for _, name, text in transcript.of("event") if name == "refused"}
    answers = iter(begun)
    for count, line in enumerate(prompts):
        if line.number not in refused and not ((answer := next(answers, None)) and answer.ended):
            return count
    return len(prompts)
