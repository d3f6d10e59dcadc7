"""A node put together from its parts: the end user, or a worker.

Heavy modules are imported where they are needed, so that a rank loads only what it runs.
"""

import os
import sys
import time
from pathlib import Path

import psutil

from . import blocks, models, start
from .crew import END_USER, Crew, layers
from .enduser import EndUser, pieces
from .link import Link, Unservable
from .settings import Settings
from .worker import serve

PARTING_S = 30.0  # longest wait for the others at the end


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def worker(link: Link, settings: Settings) -> bool:
    """Serve until the run is over. -> whether all ranks part together."""
    folder = models.locate(settings.model, say, settings.start_timeout_s)
    start.report(link, start.hello(link.me, models.fingerprint(folder)))
    import torch

    from .light import without_compiler

    with without_compiler():
        from .family import import_family, load_config, quiet
        from .stage import Stage

        import_family(load_config(folder))
    quiet()
    plan = start.receive_plan(link, settings.start_timeout_s)
    if plan is None:
        return start.farewell(link, PARTING_S)
    begun = time.monotonic()
    torch.set_num_threads(plan["threads"])
    stages = {block: Stage(folder, block, getattr(torch, plan["dtype"])) for block in plan["blocks"]}
    for stage in stages.values():
        stage.warm_up(plan["pieces"])
    start.ready(link, time.monotonic() - begun)
    serve(link, stages, time.perf_counter, settings.timeout_s, settings.idle_timeout_s)
    return start.farewell(link, PARTING_S)


def end_user(link: Link, settings: Settings) -> bool:
    """Answer the prompt. -> whether all ranks part together."""
    from .record import Record, check_path
    from .screen import Screen

    laps = Laps(before_main_s=time.time() - psutil.Process().create_time())
    if link.size < 2:
        raise Unservable("there is no worker: start at least two ranks (mpirun -n 2 or more)")
    log = Path(settings.log) if settings.log else new_log()
    check_path(log)
    folder = models.locate(settings.model, say, settings.start_timeout_s)
    fingerprint = models.fingerprint(folder)
    mine = start.hello(END_USER, fingerprint)
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
    there = start.gather(link, mine, settings.start_timeout_s, time.monotonic)
    placement = blocks.place(
        config.num_hidden_layers,
        link.size - 1,
        split=settings.split,
        end_user_layers=settings.end_user_layers,
        free_bytes=start.free_bytes(there),
    )
    text = Text(folder)
    prompt = text.ids_of(settings.prompt)
    room = config.max_position_embeddings - len(prompt)
    if room < 1:
        raise Unservable(
            f"the prompt has {len(prompt)} tokens, the model takes {config.max_position_embeddings}"
        )
    sizes = pieces(len(prompt), settings.prefill_rows, link.size - 1)
    threads = start.threads_for(there, settings.threads)
    start.hand_out(link, placement, threads, dtype_name, sizes)
    laps.lap("hellos_s")

    torch.set_num_threads(threads[END_USER])
    head = Head(folder, dtype)
    stages = {block: Stage(folder, block, dtype) for block in placement[END_USER]}
    for stage in stages.values():
        stage.warm_up(sizes)
    head.warm_up()
    crew = Crew(placement)
    screen = Screen(crew, {node: hello.host for node, hello in there.items()})
    laps.lap("own_load_s")
    loaded_s = start.await_ready(link, settings.start_timeout_s, time.monotonic)
    laps.lap("others_load_s")
    screen.started(settings.model, dtype_name, sum(laps.seconds.values()))

    record = Record(
        log,
        {
            "prompt": settings.prompt,
            "prompt_ids": prompt,
            "settings": settings.as_dict(),
            "versions": {"python": sys.version.split()[0], **mine.versions},
            "hosts": {node: hello.host for node, hello in there.items()},
            "placement": {node: [layers(block) for block in held] for node, held in placement.items()},
            "model": str(folder),
            "fingerprint": fingerprint,
            "dtype": dtype_name,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "start": laps.seconds,
            "loaded_s": loaded_s,
        },
    )
    asker = EndUser(
        link,
        crew,
        head,
        stages,
        Sampler(settings).choose,
        time.perf_counter,
        settings.prefill_rows,
        settings.timeout_s,
    )
    try:
        for token in asker.generate(prompt, min(settings.max_new_tokens, room), text.end_ids):
            record.write(token)
            print(text.piece(token.id), end="", flush=True)
            screen.add(token)
    finally:
        print(flush=True)
    peaks = start.part(link, PARTING_S, time.monotonic)
    record.note(peak_bytes=peaks)
    record.close()
    screen.summary(record.path)
    return len(peaks) == link.size


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
