"""Rank 0 put together: the end user.

Heavy modules are imported where they are needed, after what can be refused at once.
"""

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ..common import process_identity, prompt_file
from ..common.errors import Unservable
from ..common.layers import END_USER, layers
from ..common.messages import say
from ..common.output import Unwritable
from ..common.settings import Settings
from ..model import checkpoint, generation_config, patch
from ..model.tried_releases import untried
from ..net.handshake import Roll, hello
from ..net.mpi_parameters import machines_without_daemon_at_home, without_fault_tolerance
from ..net.plan import answers_that_fit, free_bytes, hand_out, hand_settings, threads_for, told_of_wishes
from ..net.shutdown import end_processes, part, release
from ..net.vitals import looking
from ..protocol import placement as blocks
from ..protocol.cluster import Crew, Policy
from ..protocol.coordinator import EndUser
from ..protocol.events import Both
from ..protocol.expected_loss import NOTHING_KNOWN, Harm
from ..protocol.failure_detector import Pace, Patience
from ..protocol.link import Link
from ..protocol.node_state import State
from ..protocol.prompt_lookup import Lookup
from ..protocol.request import WORTHWHILE_ROWS, pieces
from ..protocol.speculation import NO_DRAFTS, Drafts, Guesses, Source
from . import fault_injection
from .keyboard import Keyboard
from .piped_input import MOST_BYTES, Piped
from .startup_laps import Laps
from .worker import PARTING_S, copy_loader, journalled

if TYPE_CHECKING:
    from ..record.questions import Question
    from ..record.run import Run
    from .conversation import Conversation
    from .screen import Shows

SPEAK_S = 10.0  # between questions for the workers' clocks, which drift apart by 0.1 ms or less meanwhile
CHAT_ROWS = 64  # of a first question that is not known yet


def end_user(link: Link, settings: Settings, words: Sequence[str]) -> tuple[int, bool]:
    """Answer what is asked, and what the command line's `words` leave to a run before. -> exit status, and whether
    all ranks part together."""
    from ..common.new_file import check_path, claim
    from ..record.links_file import links_in
    from ..record.writer import Record
    from . import resume
    from .answers import Answers
    from .record_path import new_log

    laps = Laps(before_main_s=time.time() - psutil.Process().create_time())
    if link.size < 2:
        raise Unservable("there is no worker: start at least two ranks (mpirun -n 2 or more)")
    before = resume.read(Path(settings.resume)) if settings.resume else None
    if before:
        settings = resume.settings_of(before, words)
    chats = settings.prompt is None and not settings.prompts
    piped = None if chats else Piped(0 if settings.prompts else MOST_BYTES)
    if before:
        log = before.path
        if before.ended == "done":
            if piped and (sentence := resume.standard_input(before, words, piped)):
                say(sentence)
            asked = prompt_file.read(Path(settings.prompts)) if settings.prompts else []
            out = Answers(say)
            failed = resume.print_again(before, settings, asked, out)
            out.ended()
            say(f"{log} is done: there is nothing to resume")
            return int(bool(failed or out.lost)), all_part(link)
        hand_settings(link, settings.as_dict())
    else:
        log = Path(settings.log) if settings.log else new_log(say)
        check_path(log)
        if settings.log:  # else the name is this process's own
            claim(log)
    questions = prompt_file.read(Path(settings.prompts)) if settings.prompts else []
    measured = links_in(Path(settings.links)) if settings.links else {}
    orders = fault_injection.parse(settings.fault)
    if wrong := [order.node for order in orders if not 0 < order.node < link.size]:
        raise Unservable(f"--fault names node {wrong[0]}, but the workers are 1 to {link.size - 1}")
    if warning := without_fault_tolerance(link.vendor):
        say(warning)
    for sentence in untried():
        say(sentence)
    folder = checkpoint.locate(settings.model, say, settings.start_timeout_s, whole=True)
    settings = generation_config.followed(settings, folder, say)
    fingerprint = checkpoint.fingerprint(folder)
    if before:
        resume.check_model(before, fingerprint)
    told = patch.read(Path(settings.patches)) if settings.patches else None
    if told and told.fingerprint != fingerprint:
        raise Unservable(
            f"--patches {settings.patches} was fitted to another model (fingerprint {told.fingerprint}, not {fingerprint})"
        )
    mine = hello(END_USER, fingerprint, patches=told.digest if told else "")
    laps.lap("model_s")
    from ..model.light_imports import light_imports

    with light_imports():
        import torch

        from ..model import trial
        from ..model.askable import askable, longest
        from ..model.family import (
            cache_row_bytes,
            context_of,
            dtype_of,
            import_family,
            load_config,
            longest_text,
            quiet,
            read_config,
        )
        from ..model.head import Head
        from ..model.sampler import Sampler
        from ..model.stage import Stage
        from ..model.tokenizer import Text
        from ..model.weights import FORMATS
        from .conversation import Conversation
        from .json_lines import Lines
        from .screen import Screen

        quiet()
        import_family(read_config(folder))
    laps.lap("imports_s")
    trial.check(folder, say)
    config = load_config(folder)
    laps.lap("trial_s")
    prompt_said = before.attributes.get(resume.SAID, settings.prompt) if before else settings.prompt
    if piped:
        if before:
            told_of_input = resume.standard_input(before, words, piped)
        elif settings.prompt is None:
            told_of_input = piped.left_out(f"--prompts {settings.prompts} holds all that is asked")
        else:
            prompt, told_of_input = piped.appended_to(settings.prompt)
            settings = replace(settings, prompt=prompt)
        if told_of_input:
            say(told_of_input)
    dtype = dtype_of(config, settings.dtype)
    dtype_name = str(dtype).removeprefix("torch.")
    depth = config.num_hidden_layers
    harm = harm_known(settings, told, depth)
    never_skip = (
        harm.never_skip()
        if settings.never_skip == "auto"
        else blocks.layers_named(settings.never_skip, depth)
    )
    left_out = blocks.counted_from_1(settings.skip_layers, depth)
    roll = Roll(link, settings.start_timeout_s, time.monotonic)
    there = roll.gather(mine)
    if link.vendor == "Open MPI" and (warning := machines_without_daemon_at_home(there)):
        say(warning)
    free = free_bytes(there)
    placement = blocks.place(
        depth,
        link.size - 1,
        split=settings.split,
        end_user_layers=settings.end_user_layers,
        free_bytes=free,
        # Where parts were delivered, nobody else has the layers of one that is missing: its copies, or skipped.
        missing=() if any(other.has_a_part for other in there.values()) else roll.missing,
    )
    placement = blocks.without(placement, left_out)
    copies = blocks.copies(placement, settings.copies) if "copy" in settings.on_fault else {}
    copied = None
    if settings.copied_blocks and copies:
        copied = frozenset(harm.worst(copies, settings.copied_blocks))
        copies = {block: nodes for block, nodes in copies.items() if block in copied}
    text, context = Text(folder, config.vocab_size), context_of(config)
    if text.end_note:
        say(text.end_note)
    if context < (whole := longest_text(config)):
        say(
            f"a text ends after {context} of the model's {whole} positions: behind them its rotary tables change for all of it"
        )
    prompt_rows = CHAT_ROWS
    if settings.prompt is not None:
        prompt_rows = len(askable(text, (), settings.prompt, context))
    elif questions:
        prompt_rows = longest(text, [asked.prompt for asked in questions], context) or CHAT_ROWS
    at_once, prefill_rows = 1, settings.prefill_rows
    layer_bytes = checkpoint.layer_bytes(folder, depth)
    if settings.weights in FORMATS:
        layer_bytes *= FORMATS[settings.weights].bytes_a_weight / dtype_of(config, "auto").itemsize
    if questions:
        rows = min(context, prompt_rows + settings.max_new_tokens)
        # Buffers double when they grow; what a node sends is kept too.
        kept = 2 * cache_row_bytes(config, dtype) + config.hidden_size * dtype.itemsize
        held = {node: sum(map(len, placement[node])) for node in there}
        at_once, scarce = answers_that_fit(
            min(len(questions), settings.streams or link.size - 1),
            {node: rows * count * kept for node, count in held.items()},
            {node: free[node] - count * layer_bytes for node, count in held.items()},
        )
        if at_once < settings.streams and at_once < len(questions):
            say(
                f"node {scarce} has memory for {at_once} answers at a time: so many are in flight, not {settings.streams}"
            )
    if at_once > 1:  # so that no answer waits long for another's prompt
        prefill_rows = min(prefill_rows, WORTHWHILE_ROWS)
    sizes = pieces(min(context, prompt_rows), prefill_rows, link.size - 1)
    threads = threads_for(there, settings.threads)
    holders = max(map(len, copies.values()), default=0)
    for line in told_of_wishes(there, settings, holders, config.vocab_size):
        say(line)
    hand_out(link, placement, copies, threads, dtype_name, sizes)
    laps.lap("hellos_s")

    torch.set_num_threads(threads[END_USER])

    load = copy_loader(folder, dtype, settings)
    head = Head(folder, dtype, settings.weights)
    own = [Stage(folder, block, dtype, weights=settings.weights) for block in placement[END_USER]]
    for stage in own:
        stage.warm_up(sizes, time.perf_counter)
    stages = {stage.block: journalled(stage, settings) for stage in own}
    stages |= {block: load(block, beforehand=True) for block, nodes in copies.items() if END_USER in nodes}
    put_patch = patch.Patches(Path(settings.patches), dtype)
    if told:
        put_patch.prepare(told, placement[END_USER])
    source: Source = Lookup()
    if settings.draft not in ("", "text"):
        from ..model.draft_model import DraftModel

        draft_folder = checkpoint.locate(settings.draft, say, settings.start_timeout_s, whole=True)
        source = DraftModel(draft_folder, text, settings.draft, settings.dtype)
    laps.lap("own_load_s")
    hosts = {node: there[node].host if node in there else "?" for node in range(link.size)}
    shows_answers = not settings.prompts
    screen: Shows = Lines(hosts, shows_answers) if settings.json else Screen(hosts, chats, shows_answers)
    with screen.loading({node: placement[node] for node in there if node != END_USER}) as tell_ready:
        loaded = roll.await_ready(there, tell_ready)
    laps.lap("others_load_s")
    ladder = () if settings.on_fault == "stop" else tuple(settings.on_fault.split(","))
    most = depth // 3 if settings.max_skipped < 0 else settings.max_skipped
    crew = Crew(
        placement,
        copies,
        Policy(ladder, most, never_skip, settings.copies, copied),
        {node: bytes_ / layer_bytes for node, bytes_ in free.items()},
        patches=told.patched if told else frozenset(),
        patchers=frozenset(node for node in there if told and there[node].patches == told.digest),
    )
    if told and (without := there.keys() - crew.patchers):
        screen.tell(
            f"node {', '.join(map(str, sorted(without)))} has not this {settings.patches}: what is lost behind it is skipped"
        )
    if left_out:
        screen.tell(
            f"layers {settings.skip_layers} are left out (counted from 1; elsewhere layers count from 0)"
        )
    for node, sign in roll.missing.items():
        crew = crew.after(node, sign)
        screen.tell(f"node {node} {sign.value} before the first token: it is done without")
    crew.route()  # raises Unservable if that is too little
    screen.started(
        crew,
        settings.model,
        dtype_name + (f", {settings.weights} weights" if settings.weights in FORMATS else ""),
        sum(laps.seconds.values()),
    )

    attributes = {
        "prompt": settings.prompt or "",
        resume.SAID: prompt_said or "",
        "settings": settings.as_dict(),
        "versions": {"python": sys.version.split()[0], **mine.versions},
        "hosts": hosts,
        "placement": {node: [layers(block) for block in held] for node, held in placement.items()},
        "copies": {layers(block): nodes for block, nodes in copies.items()},
        "policy": {
            "ladder": ladder,
            "max_skipped": most,
            "never_skip": sorted(never_skip),
            "copied": None if copied is None else [layers(block) for block in copied],
        },
        "patches": [layers(hole) for hole in crew.patches],
        "patchers": sorted(crew.patchers),
        "room": crew.room,
        "model": str(folder),
        "fingerprint": fingerprint,
        "dtype": dtype_name,
        "depth": depth,
        "links": [
            (a, b, *measured[pair])
            for a, b in combinations(hosts, 2)
            if (pair := frozenset((hosts[a], hosts[b]))) in measured
        ],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "start": laps.seconds,
        "loaded_s": {node: answer["loaded_s"] for node, answer in loaded.items()},
        "writer": process_identity.named(os.getpid()),
    }
    step = 0
    if before:
        step = max(
            [0, *(before.tokens["step"] + 1).tolist(), *(question.step for question in before.questions)]
        )
        record = Record.resumed(log, attributes, time.perf_counter(), screen, before.length_s, step)
        screen.tell(resumed_at(before))
        if sentence := resume.unlike(before):
            screen.tell(sentence)
    else:
        record = Record(log, attributes, time.perf_counter(), screen)
    for node, sign in roll.missing.items():
        record.sign(time.perf_counter(), step, node, sign)
    for node, last in roll.words.items():
        Both(record, screen).words(time.perf_counter(), step, node, last)
    drafts: Drafts = NO_DRAFTS
    if settings.draft:
        row_s = sum(answer["pace"][1] * sum(map(len, placement[node])) for node, answer in loaded.items())
        drafts = Guesses(source, settings.draft_tokens, row_s, time.perf_counter)
    asker = EndUser(
        link, crew, head, stages, Sampler(settings).choose, time.perf_counter,
        prefill_rows=prefill_rows, load=load, hears=Both(record, screen),
        patience=Patience(*(getattr(settings, name) for name in Patience.__dataclass_fields__)),
        pace={node: Pace(*answer["pace"]) for node, answer in loaded.items()},
        speak_s=min(SPEAK_S, settings.idle_timeout_s / 3),
        row_s=8 * head.width * dtype.itemsize / (1e3 * settings.slowest_link_kbit_s),
        vitals=looking(time.perf_counter), patch=put_patch, harm=harm, drafts=drafts,
    )  # fmt: skip
    asker.step = step
    asker.compare_clocks()
    with Keyboard() if chats else contextlib.nullcontext() as keyboard:
        talk = Conversation(
            asker, text, context, settings, record, screen,
            interrupted=lambda: keyboard is not None and keyboard.interrupts > 0,
        )  # fmt: skip
        if before and not questions:
            talk.restore(before.questions)
        ended, done = answered(
            talk, settings, questions, at_once, keyboard, screen, before.questions if before else ()
        )
    silent = [node for node in range(1, link.size) if asker.crew.state(node) in (State.SILENT, State.GONE)]
    peaks = part(link, silent, PARTING_S, time.monotonic)
    end_processes(there, silent)
    record.ended(time.perf_counter(), asker.step, ended, done, peaks)
    record.close()
    try:
        screen.summary(asker.crew, record.path)
        screen.answer.ended()
    except Unwritable as error:
        ended = ended or error.sentence
    if ended:
        say(ended)
    release(link, together := len(peaks) == link.size)
    return int(bool(ended or screen.answer.lost)), together


def harm_known(settings: Settings, told: "patch.Told | None", depth: int) -> Harm:
    """From --study and --patches. Raises Unservable."""
    known = Harm(*told.losses) if told else NOTHING_KNOWN
    if settings.study:
        from ..record.study_file import costs_in

        known = Harm({**known.skipped, **costs_in(Path(settings.study), depth)}, known.patched)
    return known


def all_part(link: Link) -> bool:
    """Before any work was handed out. -> whether all ranks part together."""
    there = part(link, (), PARTING_S, time.monotonic)
    release(link, together := len(there) == link.size)
    return together


def resumed_at(before: "Run") -> str:
    answered = sum(question.answered for question in before.questions)
    tokens = [len(question.tokens) for question in before.questions if not question.answered]
    under_way = (
        f", {'the next' if len(tokens) == 1 else 'others'} after {', '.join(map(str, tokens))} tokens"
        if tokens
        else ""
    )
    return f"{before.path} is resumed: {answered} answered{under_way}"


def answered(
    talk: "Conversation", settings: Settings, questions: Sequence[prompt_file.Asked], at_once: int,
    keyboard: Keyboard | None, screen: "Shows", before: Sequence["Question"],
) -> tuple[str, bool]:  # fmt: skip
    """Answer what is asked, what was begun `before` first. -> what went wrong, if anything, and whether all is done."""
    under_way = before[-1] if before and not before[-1].answered else None
    try:
        if questions:
            from .batch import Crowd

            failed = Crowd(talk, at_once, screen.answer, before).ask_all(questions)
            return f"{failed} of {len(questions)} prompts could not be answered" if failed else "", True
        if under_way:
            talk.answer(under_way.prompt, under_way.ids, under_way.tokens)
        if keyboard:
            from .chat import chat

            failed = chat(talk, keyboard, screen)
            return (
                f"{failed} lines could not be answered" if failed and not keyboard.is_terminal else "",
                True,
            )
        assert settings.prompt
        if not before:
            talk.ask(settings.prompt)
        elif not under_way:
            talk.show_again(before[-1])
    except Unservable as error:
        return str(error), False
    except KeyboardInterrupt:
        return "ended by Ctrl-C", False
    except Unwritable as error:
        return error.sentence, False
    return "", True
