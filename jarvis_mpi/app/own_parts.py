"""Loads what the end user holds itself: the head, its own layers, copies of others', patches, and the draft
source."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..common.layers import END_USER, Block
from ..common.messages import say
from ..common.settings import Settings
from ..model import checkpoint, patch
from ..model.draft_model import DraftModel
from ..model.head import Head
from ..model.stage import Stage
from ..model.tokenizer import Text
from ..model.weights import unexpected_names
from ..protocol.journal import Journalled
from ..protocol.prompt_lookup import PromptLookup
from ..protocol.speculation import Source
from ..protocol.worker import Patch
from .startup import Start
from .worker import copy_loader, journalled


@dataclass(frozen=True)
class OwnParts:
    head: Head
    stages: dict[Block, Journalled]
    load: Callable[..., Journalled]  # a copy of a block
    patches: Patch
    source: Source  # of drafts, for --draft


def load_own(start: Start) -> OwnParts:
    """Read and warm up what rank 0 runs. Raises Unservable."""
    model, layout, settings = start.model, start.layout, start.asked.settings
    load = copy_loader(model.folder, model.dtype, settings)
    head = Head(model.folder, model.dtype, settings.weights)
    own = [
        Stage(model.folder, block, model.dtype, weights=settings.weights)
        for block in layout.placement[END_USER]
    ]
    for stage in own:
        stage.warm_up(start.capacity.pieces, time.perf_counter)
    unexpected = [unexpected_names(each.model, each.folder, each.block, each.names_used) for each in own]
    tell_unused(model.folder, model.depth, [name for names in unexpected for name in names])
    stages = {stage.block: journalled(stage, settings) for stage in own}
    stages |= {
        block: load(block, beforehand=True) for block, nodes in layout.copies.items() if END_USER in nodes
    }
    patches = patch.Patches(Path(settings.patches), model.dtype)
    if start.files.patches:
        patches.prepare(start.files.patches, layout.placement[END_USER])
    return OwnParts(head, stages, load, patches, source_of(settings, start.text))


def tell_unused(folder: Path, depth: int, names: Sequence[str]) -> None:
    """Tell of tensors that the files have and the model has not, `names` and those of layers from `depth` on:
    what transformers warns of."""
    if names:
        say(
            f"{folder} has tensors that its config.json leaves no place for, "
            f"such as {names[0]}: they are passed over, as transformers does"
        )
    if (stored := 1 + max(checkpoint.bytes_by_layer(folder))) > depth:
        say(
            f"{folder} has {stored} layers, but its config.json asks for {depth}: the others are passed "
            "over, as transformers does"
        )


def source_of(settings: Settings, text: Text) -> Source:
    """Return what proposes drafts, by --draft. Raises Unservable."""
    if settings.draft in ("", "text"):
        return PromptLookup()
    folder = checkpoint.locate(settings.draft, say, settings.start_timeout_s, whole=True)
    return DraftModel(folder, text, settings.draft, settings.dtype)
