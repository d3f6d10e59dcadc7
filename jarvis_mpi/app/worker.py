"""Runs a worker, put together from its parts; the end user (end_user.py) uses some of them, too.

Heavy modules are imported where they are needed, so that a rank loads only what it runs.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.errors import Unservable
from ..common.layers import Block
from ..common.messages import say
from ..common.settings import Settings
from ..model import checkpoint, patch
from ..net.handshake import hello, report
from ..net.heartbeat import beating
from ..net.plan import Plan, ready, receive_plan, receive_settings
from ..net.shutdown import farewell
from ..net.ssh_keepalive import home
from ..net.vitals import looking
from ..protocol.election import NOBODY, Term
from ..protocol.journal import Journalled
from ..protocol.link import Link
from ..protocol.standby import StandbyWorker
from ..protocol.steps_in_flight import Pace
from ..protocol.worker import Ended
from . import fault_injection
from .preparation import Preparation

if TYPE_CHECKING:
    import torch

    from ..model.stage import Stage
    from .successor_parts import SuccessorParts

SHUTDOWN_S = 30.0  # longest wait for the others at the end


def worker(link: Link, settings: Settings) -> tuple[int, bool]:
    """Serve until the run is over. -> exit status, and whether all ranks leave together."""
    with beating(link, settings.beat_s) as heartbeat:
        if settings.resume:
            options = receive_settings(link, settings.start_timeout_s, time.monotonic)
            if options is None:
                return 0, farewell(link, SHUTDOWN_S, time.monotonic)
            settings = Settings.of(options)
            heartbeat.beat_s = settings.beat_s
        folder = checkpoint.locate(settings.model, say, settings.start_timeout_s)
        patch_info = patches_here(settings)
        introduce(link, folder, patch_info)
        from ..model.light_imports import light_imports

        with light_imports():
            from ..model import stage  # noqa: F401 (with torch)
            from ..model.family import import_family, load_config, quiet

            quiet()
            import_family(load_config(folder))
        plan = receive_plan(link, settings.start_timeout_s, time.monotonic)
        home.may_be_lost = plan is not None and plan.standby != NOBODY
        if plan is None:
            return 0, farewell(link, SHUTDOWN_S, time.monotonic)
        checkpoint.check_layers(folder, (layer for block in (*plan.blocks, *plan.copies) for layer in block))
        made, successor, loaded_s, pace = made_by(link, plan, folder, settings, patch_info)
        ready(link, loaded_s, pace)
        heartbeat.say = made.beat
        ended = made.serve(settings.idle_timeout_s)
    if ended is Ended.TAKES_OVER:
        from .succession import go_on

        return go_on(link, made, successor.result())
    return 0, ended is Ended.GOODBYE and farewell(link, SHUTDOWN_S, time.monotonic)


def made_by(
    link: Link, plan: Plan, folder: Path, settings: Settings, patch_info: patch.PatchInfo | None
) -> tuple[StandbyWorker, "Preparation[SuccessorParts]", float, Pace]:
    """Load what the plan says. -> the worker, what it has besides once it is a standby, how long its layers
    took to load, and what they measured. Raises Unservable."""
    import torch

    from ..model.stage import Stage

    begun, dtype = time.monotonic(), getattr(torch, plan.dtype)
    torch.set_num_threads(plan.threads)
    own = [Stage(folder, block, dtype, weights=settings.weights) for block in plan.blocks]
    paces = [Pace(*stage.warm_up(plan.pieces, time.perf_counter)) for stage in own]
    loaded_s = time.monotonic() - begun
    if settings.pace_s:
        paces = [pace.slowed_to(settings.pace_s) for pace in paces]
    pace = (paces[0] if paces else Pace(settings.pace_s)) if settings.pace_s else None
    load = copy_loader(folder, dtype, settings, pace)
    stages = {stage.block: journalled(stage, settings, pace) for stage in own}
    stages |= {block: load(block, beforehand=True) for block in (*plan.copies, *plan.end_users)}
    put_patch = patch.Patches(Path(settings.patches), dtype)
    if patch_info:
        put_patch.prepare(patch_info, (*plan.blocks, *plan.end_users))
    successor = Preparation(lambda: parts_of_a_successor(folder, settings, patch_info))
    if plan.standby == link.me:
        successor.load()
    orders = [order for order in fault_injection.parse(settings.fault) if order.node == link.me]
    parts = link, stages, time.perf_counter, load, settings.beat_s, looking(time.perf_counter), put_patch
    more = Term(standby=plan.standby), settings.silence_s, successor.begin
    made = fault_injection.FaultyWorker(orders, *parts, *more) if orders else StandbyWorker(*parts, *more)
    held = sum(map(len, plan.blocks)) or 1
    return made, successor, loaded_s, paces[0]._replace(first_s=loaded_s / held) if paces else Pace()


def parts_of_a_successor(
    folder: Path, settings: Settings, patch_info: patch.PatchInfo | None
) -> "SuccessorParts":
    from .successor_parts import successor_parts

    return successor_parts(folder, settings, patch_info)


def introduce(link: Link, folder: Path, patch_info: patch.PatchInfo | None) -> None:
    """Say to the end user who this node is and what it has."""
    has_a_part, digest = checkpoint.delivered(folder) is not None, patch_info.digest if patch_info else ""
    report(link, hello(link.me, checkpoint.fingerprint(folder), has_a_part, digest))


def patches_here(settings: Settings) -> patch.PatchInfo | None:
    """Read this host's patches; None where it has no such file: the end user says so, and nodes that have one
    apply them."""
    try:
        return patch.read(Path(settings.patches)) if settings.patches else None
    except Unservable:
        return None


def journalled(stage: "Stage", settings: Settings, pace: Pace | None = None) -> Journalled:
    """Wrap a stage with its journal. `pace`: of a slower machine, to be imitated."""
    paced = stage if pace is None else fault_injection.paced(stage, len(stage.block), stage.row_bytes, pace)
    return Journalled(paced, stage.block, int(settings.journal_mb * 1e6))


def copy_loader(
    folder: Path, dtype: "torch.dtype", settings: Settings, pace: Pace | None = None
) -> Callable[..., Journalled]:
    """Return what loads a copy of a block: asleep, so that it costs no memory until it is used; at a node's
    start `beforehand` quantises it. It raises Unservable where the block's tensors are not on this
    machine."""
    from ..model.stage import Stage

    def load(block: Block, beforehand: bool = False) -> Journalled:
        checkpoint.check_layers(folder, block)
        stage = Stage(folder, block, dtype, asleep=True, weights=settings.weights)
        if beforehand:
            stage.quantise_beforehand()
        return journalled(stage, settings, pace)

    return load
