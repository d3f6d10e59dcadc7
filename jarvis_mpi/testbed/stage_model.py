"""python -m jarvis_mpi stage-model: sends each node the tensors that it runs, where a run finds them.

    sender                                            receiver (on the host, started by ssh)
    what is to be there: files, ranges, hashes   ->
                                                 <-   which ranges are not there yet, or are damaged
    those ranges' bytes                          ->
                                                 <-   whether all is as it should be

A node's files have the names and sizes of the whole model's, with holes where other nodes' tensors are; so no
reader has to know. The middle of every tensor is there: checkpoint.fingerprint is made of them.
"""

import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from ..common.boundary import guarded
from ..common.errors import Unservable
from ..common.layers import END_USER, Block
from ..model import checkpoint
from ..net import hostfile
from ..protocol import placement as blocks
from . import on_host
from .transfer import send, wanted_of


def layers_of(placement: blocks.Placement, copied: dict[Block, tuple[int, ...]], node: int) -> set[int]:
    held = [*placement[node], *(block for block, nodes in copied.items() if node in nodes)]
    return {layer for block in held for layer in block}


def main(words: Sequence[str]) -> int:
    from ..common.options import given_options, preparing
    from ..common.settings import Settings

    parser = preparing("stage-model", "Each node gets the tensors that it runs, and a run finds them there.")
    parser.add_argument(
        "--hostfile", type=Path, required=True, help="as mpirun's: rank 0, which is here, first"
    )
    try:
        options = given_options(parser, words)
        hosts, settings = hostfile.ranks(options["hostfile"]), Settings.of(options).checked()
        if settings.split == "memory":
            raise Unservable(
                "--split memory is decided when a run starts: say layers per worker, such as --split 2,3,3"
            )
        folder = checkpoint.locate(settings.model, print, settings.start_timeout_s, whole=True)
        depth = len(checkpoint.bytes_by_layer(folder))
        placement = blocks.place(
            depth, len(hosts) - 1, split=settings.split, end_user_layers=settings.end_user_layers
        )
        copied = blocks.copies(placement, settings.copies)
        layers: dict[str, set[int]] = {}
        for node, host in enumerate(hosts):
            if node != END_USER and not on_host.is_here(host):
                layers.setdefault(host, set()).update(layers_of(placement, copied, node))
        if not layers:
            print("all ranks are on this machine, which has the whole model: nothing is to be sent")
            return 0
        return deliver(settings.model, folder, layers)
    except Unservable as error:
        print(error, file=sys.stderr)
        return 1


def deliver(model: str, folder: Path, layers: dict[str, set[int]]) -> int:
    """Send to all hosts at a time. -> exit status."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    failed, lines = [], {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    from ..common.console import console

    terminal = console(sys.stderr)
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as progress:

        def to(host: str) -> None:
            task = progress.add_task(host, total=None)
            try:
                wanted, own_bytes = wanted_of(folder, layers[host])
                progress.update(task, total=own_bytes)
                with guarded(f"{host} cannot be sent to"):
                    sent = send(
                        host, model, folder, wanted, lambda so_far: progress.update(task, completed=so_far)
                    )
                lines[host] = (
                    f"{host} has the whole model"
                    if sent < 0
                    else (
                        f"{host}: {own_bytes / 1e6:.1f} MB of tensors are there and right, "
                        f"{sent / 1e6:.1f} MB were sent"
                    )
                )
            except (Unservable, OSError, subprocess.SubprocessError) as error:
                failed.append(host)
                lines[host] = str(error) if isinstance(error, Unservable) else f"{host}: {error}"

        threads = [threading.Thread(target=to, args=(host,), daemon=True) for host in layers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for host in layers:
        print(lines[host], file=sys.stderr if host in failed else sys.stdout)
    return int(bool(failed))
