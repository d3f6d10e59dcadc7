"""A node put together from its parts: the end user, or a worker.

Heavy modules are imported where they are needed, so that a rank loads only what it runs.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import psutil

from . import blocks, faults, models
from .beats import beating
from .crew import END_USER, Block, Crew, Policy, State, layers
from .enduser import EndUser, Token, pieces
from .journal import Journalled
from .link import Link, Unservable
from .parting import end_processes, farewell, part, release
from .plan import free_bytes, hand_out, ready, receive_plan, threads_for
from .roll import Roll, hello, report
from .settings import Settings
from .setup import machines_without_daemon_at_home, without_fault_tolerance
from .terminal import answer_stream
from .watch import Pace, Patience
from .worker import Worker

if TYPE_CHECKING:
    import torch

    from .record import Record
    from .screen import Screen
    from .stage import Stage
    from .text import Text

PARTING_S = 30.0  # longest wait for the others at the end


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def worker(link: Link, settings: Settings) -> tuple[int, bool]:
    """Serve until the run is over. -> exit status, and whether all ranks part together."""
    with beating(link, settings.beat_s) as beats:
        folder = models.locate(settings.model, say, settings.start_timeout_s)
        report(link, hello(link.me, models.fingerprint(folder)))
        import torch

        from .light import without_compiler

        with without_compiler():
            from .family import import_family, load_config, quiet
            from .stage import Stage

            import_family(load_config(folder))
        quiet()
        plan = receive_plan(link, settings.start_timeout_s, time.monotonic)
        if plan is None:
            return 0, farewell(link, PARTING_S, time.monotonic)
        begun = time.monotonic()
        torch.set_num_threads(plan.threads)
        dtype = getattr(torch, plan.dtype)

        load = copy_loader(folder, dtype, settings)
        own = [Stage(folder, block, dtype) for block in plan.blocks]
        paces = [stage.warm_up(plan.pieces, time.perf_counter) for stage in own]
        loaded_s = time.monotonic() - begun
        stages = {stage.block: journalled(stage, settings) for stage in own}
        stages |= {block: load(block) for block in plan.copies}
        orders = [order for order in faults.parse(settings.fault) if order.node == link.me]
        parts = (link, stages, time.perf_counter, load, settings.beat_s)
        made = faults.FaultyWorker(orders, *parts) if orders else Worker(*parts)
        held = sum(map(len, plan.blocks)) or 1
        ready(link, loaded_s, paces[0]._replace(first_s=loaded_s / held) if paces else Pace())
        beats.say = made.beat
        given_up = made.serve(settings.idle_timeout_s)
    return 0, not given_up and farewell(link, PARTING_S, time.monotonic)


def journalled(stage: "Stage", settings: Settings) -> Journalled:
    return Journalled(stage, stage.block, int(settings.journal_mb * 1e6))


def copy_loader(folder: Path, dtype: "torch.dtype", settings: Settings) -> Callable[[Block], Journalled]:
    """What makes a copy of a block: asleep, so that it costs no memory until it is used."""
    from .stage import Stage

    return lambda block: journalled(Stage(folder, block, dtype, asleep=True), settings)


def end_user(link: Link, settings: Settings) -> tuple[int, bool]:
    """Answer the prompt. -> exit status, and whether all ranks part together."""
    from .record import Record, check_path
    from .screen import Screen

    laps = Laps(before_main_s=time.time() - psutil.Process().create_time())
    if link.size < 2:
        raise Unservable("there is no worker: start at least two ranks (mpirun -n 2 or more)")
    log = Path(settings.log) if settings.log else new_log()
    check_path(log)
    orders = faults.parse(settings.fault)
    if wrong := [order.node for order in orders if not 0 < order.node < link.size]:
        raise Unservable(f"--fault names node {wrong[0]}, but the workers are 1 to {link.size - 1}")
    if warning := without_fault_tolerance(link.vendor):
        say(warning)
    folder = models.locate(settings.model, say, settings.start_timeout_s)
    fingerprint = models.fingerprint(folder)
    mine = hello(END_USER, fingerprint)
    laps.lap("model_s")
    import torch

    from .light import without_compiler

    with without_compiler():
        from .family import dtype_of, import_family, load_config, quiet
        from .sample import Sampler
        from .stage import Head, Stage
        from .text import Text

        config = load_config(folder)
        import_family(config)
    laps.lap("imports_s")
    quiet()
    dtype = dtype_of(config, settings.dtype)
    dtype_name = str(dtype).removeprefix("torch.")
    depth = config.num_hidden_layers
    never_skip = blocks.layers_named(settings.never_skip, depth)
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
        missing=roll.missing,
    )
    copies = blocks.copies(placement, settings.copies) if "copy" in settings.on_fault else {}
    text = Text(folder)
    prompt = text.ids_of(settings.prompt)
    room = config.max_position_embeddings - len(prompt)
    if room < 1:
        raise Unservable(
            f"the prompt has {len(prompt)} tokens, the model takes {config.max_position_embeddings}"
        )
    sizes = pieces(len(prompt), settings.prefill_rows, link.size - 1)
    threads = threads_for(there, settings.threads)
    hand_out(link, placement, copies, threads, dtype_name, sizes)
    laps.lap("hellos_s")

    torch.set_num_threads(threads[END_USER])

    load = copy_loader(folder, dtype, settings)
    head = Head(folder, dtype)
    own = [Stage(folder, block, dtype) for block in placement[END_USER]]
    for stage in own:
        stage.warm_up(sizes, time.perf_counter)
    stages = {stage.block: journalled(stage, settings) for stage in own}
    stages |= {block: load(block) for block, nodes in copies.items() if END_USER in nodes}
    head.warm_up()
    laps.lap("own_load_s")
    loaded = roll.await_ready(there)
    laps.lap("others_load_s")
    ladder = () if settings.on_fault == "stop" else tuple(settings.on_fault.split(","))
    most = depth // 3 if settings.max_skipped < 0 else settings.max_skipped
    layer_bytes = models.layer_bytes(folder, depth)
    crew = Crew(
        placement,
        copies,
        Policy(ladder, most, never_skip, settings.copies),
        {node: bytes_ / layer_bytes for node, bytes_ in free.items()},
    )
    hosts = {node: there[node].host if node in there else "?" for node in range(link.size)}
    answer = answer_stream()
    screen = Screen(crew, hosts, answer)
    for node, sign in roll.missing.items():
        crew = crew.after(node, sign)
        screen.tell(f"node {node} {sign.value} before the first token: it is done without")
    crew.route()  # raises Unservable if that is too little
    screen.started(crew, settings.model, dtype_name, sum(laps.seconds.values()))

    record = Record(
        log,
        {
            "prompt": settings.prompt,
            "prompt_ids": prompt,
            "settings": settings.as_dict(),
            "versions": {"python": sys.version.split()[0], **mine.versions},
            "hosts": hosts,
            "placement": {node: [layers(block) for block in held] for node, held in placement.items()},
            "copies": {layers(block): nodes for block, nodes in copies.items()},
            "policy": {"ladder": ladder, "max_skipped": most, "never_skip": sorted(never_skip)},
            "room": crew.room,
            "model": str(folder),
            "fingerprint": fingerprint,
            "dtype": dtype_name,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "start": laps.seconds,
            "loaded_s": {node: answer["loaded_s"] for node, answer in loaded.items()},
        },
    )
    for node, sign in roll.missing.items():
        record.sign(time.perf_counter(), 0, node, sign)
    for node, words in roll.words.items():
        Both(record, screen).words(time.perf_counter(), 0, node, words)
    asker = EndUser(
        link, crew, head, stages, Sampler(settings).choose, time.perf_counter,
        prefill_rows=settings.prefill_rows, load=load, hears=Both(record, screen),
        patience=Patience(*(getattr(settings, name) for name in Patience.__dataclass_fields__)),
        pace={node: Pace(*answer["pace"]) for node, answer in loaded.items()},
    )  # fmt: skip
    end_ids = frozenset[int]() if settings.ignore_eos else text.end_ids
    tokens = asker.generate(prompt, min(settings.max_new_tokens, room), end_ids)
    ended = show(tokens, text, answer, record, screen)
    silent = [node for node in range(1, link.size) if asker.crew.state(node) in (State.SILENT, State.GONE)]
    peaks = part(link, silent, PARTING_S, time.monotonic)
    end_processes(there, silent)
    record.note(peak_bytes=peaks, ended=ended or "text")
    record.close()
    screen.summary(asker.crew, record.path)
    if ended:
        say(ended)
    release(link, together := len(peaks) == link.size)
    return int(bool(ended)), together


def show(tokens: Iterator[Token], text: "Text", answer: TextIO, record: "Record", screen: "Screen") -> str:
    """Record and print each token as it comes. -> the sentence that ended them too early, or nothing."""
    try:
        for token in tokens:
            record.write(token)
            print(text.piece(token.id), end="", file=answer, flush=True)
            screen.add(token)
    except Unservable as error:
        return str(error)
    finally:
        print(file=answer, flush=True)
    return ""


class Both:
    """What it is told, it tells all of `others`."""

    def __init__(self, *others: Any):
        self.others = others

    def __getattr__(self, name: str) -> Callable[..., None]:
        def tell(*what: Any) -> None:
            for other in self.others:
                getattr(other, name)(*what)

        return tell


class Laps:
    """How long each part of the start took."""

    def __init__(self, **seconds: float):
        self.seconds, self.since = seconds, time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = round(now - self.since, 3)
        self.since = now


def new_log() -> Path:
    """A file name of its own under runs/."""
    stem = time.strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{stem}-{os.getpid()}.h5"
