"""Starts a run: tries the model, gathers the nodes, and tells each which layers to load.

This file imports torch and transformers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ..common.layers import END_USER
from ..common.messages import say
from ..model.tokenizer import Text
from ..net.handshake import Handshake, Hello
from ..net.plan import hand_out, option_notices, threads_for
from ..protocol.expected_loss import ExpectedLoss
from .capacity import Capacity, capacity_of
from .layout import Layout, laid_out, loss_known
from .opening import ModelFiles, RunTask
from .served_model import ServedModel, tokenizer_of, tried_model
from .startup_laps import Laps


@dataclass(frozen=True)
class Start:
    """A run whose nodes have been told what to load."""

    asked: RunTask
    files: ModelFiles
    model: ServedModel
    text: Text
    losses: ExpectedLoss
    layout: Layout
    capacity: Capacity
    threads: int  # of rank 0
    hosts: Mapping[int, str]  # of every node


def start_run(handshake: Handshake, asked: RunTask, files: ModelFiles, mine: Hello, laps: Laps) -> Start:
    """Start the run; `mine` is rank 0's hello. Raises Unservable where it cannot be run."""
    model = tried_model(files.folder, asked.settings)
    laps.lap("trial_s")
    asked = asked.with_standard_input()
    settings = asked.settings
    losses = loss_known(settings, files.patches, model.depth)
    layout = laid_out(handshake, mine, settings, losses, model)
    text = tokenizer_of(model)
    capacity = capacity_of(asked, model, text, layout)
    threads = threads_for(layout.hellos, settings.threads)
    holders = max(map(len, layout.copies.values()), default=0)
    for line in option_notices(layout.hellos, settings, holders, model.config.vocab_size):
        say(line)
    hand_out(
        handshake.link, layout.placement, layout.copies, threads, model.dtype_name, capacity.pieces,
        layout.standby,
    )  # fmt: skip
    laps.lap("hellos_s")
    hosts = {
        node: layout.hellos[node].host if node in layout.hellos else "?"
        for node in range(handshake.link.size)
    }
    return Start(asked, files, model, text, losses, layout, capacity, threads[END_USER], hosts)
