"""Compare a cut of a model with the whole, on a small twin, before a weight is read."""

import contextlib
import importlib.metadata
import inspect
import json
import math
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ..common.boundary import guarded
from ..common.cache_folder import Say, cache_folder, keep, only_one
from ..common.errors import Shortage, Unservable
from ..common.layers import Block
from ..common.settings import is_utf8
from .family import cache_argument, context_of, read_config, rotary
from .head import Head
from .stage import Stage
from .twin import GROUPS, STRENGTHS, UNSCALED, WINDOW, draw, make_twin

SMALL = "a small model of its making"
WAIT_S = 120.0  # for another rank of this host that tries the same model
CUTS = (1, 3)  # numbers of stages, at a model's first use
MIXTURE = re.compile("(Experts|MoeBlock|Moe|MoE|MoELayer|Router|TopKGating)$")  # a module's class
# Of a config.
SAYS_NOTHING = ("_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype")
NEAR = 1e-4  # of the largest logit: the rounding of float32
NOISE = NEAR / 10  # the rounding within the whole model, at the most: more could hide a difference


class TrialText(NamedTuple):
    prompt: int  # tokens
    answer: int


class Reference(NamedTuple):
    """The whole model's answer."""

    prompt: list[int]
    answer: list[int]
    logits: Tensor  # [answer, V], from which each of its tokens would be chosen


def questions(context: int) -> list[TrialText]:
    """Return the lengths to try: short; past a window with the answer, and with the prompt; past the first
    border of rotary tables, where the model takes such texts."""
    asked = [
        TrialText(WINDOW - 3, WINDOW + 3),
        TrialText(3 * WINDOW - 1, 5),
        TrialText(UNSCALED - 4, 9),
        TrialText(UNSCALED + 9, 5),
    ]
    return [each for each in asked if each.prompt + each.answer <= context]


@torch.inference_mode()
def reference_of(model: Any, asked: TrialText, seed: int) -> Reference:
    """Run a random text through the family's own forward, in one piece and without a cache.

    `generate` itself would import torch's compiler: seconds. tests/families.py holds the cut against it.
    """
    among = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, model.config.vocab_size, (1, asked.prompt + asked.answer), generator=among)
    logits = model(ids[:, :-1], use_cache=False).logits[0, asked.prompt - 1 :].float()
    prompt, answer = ids[0].tensor_split([asked.prompt])
    return Reference(prompt.tolist(), answer.tolist(), logits)


def noise_of(model: Any, reference: Reference, asked: TrialText, seed: int) -> float:
    """Return how far the whole model's logits are from those in float64; infinity where its code cannot run
    in float64."""
    try:
        with guarded(f"a model of kind {model.config.model_type!r} cannot be run in float64"):
            return apart(reference.logits, reference_of(model.double(), asked, seed).logits)
    except Shortage:
        raise
    except Unservable:
        return math.inf
    finally:
        model.float()


@torch.inference_mode()
def sees_what_comes_after(model: Any, reference: Reference) -> bool:
    """Return whether the logits of the first tokens change with later ones: then the model is an encoder."""
    few = len(reference.prompt)
    short, long = (torch.tensor([ids]) for ids in (reference.prompt, reference.prompt + reference.answer))
    return apart(model(long).logits[0, :few], model(short).logits[0]) > NEAR


def logits_of_cut(
    head: Head, stages: Sequence[Stage], prompt: Sequence[int], answer: Sequence[int]
) -> Tensor:
    """Return the logits of each token of `answer`, as a run computes them: the prompt at once, then row by
    row."""
    rows, start, logits = list(prompt), 0, list[Tensor]()
    for token in answer:
        body = head.embed(rows, start)
        for stage in stages:
            body = stage.run(body, start)
        logits.append(head.logits(body))
        start, rows = start + len(rows), [token]
    return torch.stack(logits)


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max().clamp(min=1.0))


def blocks_of(depth: int, count: int) -> list[Block]:
    return [range(depth * k // count, depth * (k + 1) // count) for k in range(count)]


def twin_that_answers(config: Any) -> Any:
    """Make a twin of `config` whose forward works. Raises Unservable where none can be made."""
    failures = []
    for groups in GROUPS:
        try:
            with guarded(f"a model of kind {config.model_type!r} cannot be tried"):
                model = make_twin(config, groups)
                reference_of(model, TrialText(2, 2), 0)
                return model
        except Shortage:
            raise
        except Unservable as error:
            failures.append(error)
    if unknown := {str(each.get("rope_type", "default")) for each in rotary(config)} - {
        "default",
        *ROPE_INIT_FUNCTIONS,
    }:
        raise Unservable(
            f"a model of kind {config.model_type!r} has rotary tables of a kind that transformers does not "
            f"know: {', '.join(sorted(unknown))} (rope_type in its config); update transformers"
        )
    raise failures[0]


def answers_of(model: Any) -> list[Reference]:
    """Return the whole twin's answers, with weights strong enough that layers matter, and weak enough that
    rounding stays small."""
    asked = questions(context_of(model.config))
    for strength in STRENGTHS:
        draw(model, strength)
        references = [reference_of(model, each, seed) for seed, each in enumerate(asked)]
        if noise_of(model, references[0], asked[0], 0) < NOISE:
            break
    return references


def unlike(config: Any, cuts: Sequence[int]) -> str:
    """Return why a model of this config is refused: what of it cannot be cut, or in how many stages its twin
    answers otherwise.

    '' where every cut answers as the whole does. Raises Unservable where no twin can be made.
    """
    model = twin_that_answers(config)
    if why := uncuttable(model):
        return why
    references = answers_of(model)
    if sees_what_comes_after(model, references[0]):
        return "each token sees those after it, as in an encoder"
    depth = model.config.num_hidden_layers
    with TemporaryDirectory() as name:
        folder = Path(name)
        if not is_utf8(name):  # no library of tensors opens such a file
            raise Unservable(
                f"the folder for temporary files, {str(folder.parent)!a}, "
                "has a name that is not UTF-8 text: name another in TMPDIR"
            )
        model.save_pretrained(folder)
        try:
            return next(
                filter(None, (unlike_in(folder, references, min(count, depth), depth) for count in cuts)), ""
            )
        except Shortage:  # no verdict: it may pass
            raise
        except Unservable as error:  # which names the small model's folder
            why = str(error).replace(f"{folder}/config.json", "its config.json").replace(f"{folder}", SMALL)
            return why.removesuffix(": fetch it again")


def unlike_in(folder: Path, references: Sequence[Reference], count: int, depth: int) -> str:
    """Return how the twin in `folder`, cut into `count` stages, differs from the whole one's `references`; ''
    if it does not."""
    head = Head(folder, torch.float32)
    stages = [Stage(folder, block, torch.float32) for block in blocks_of(depth, count)]
    for prompt, answer, logits in references:
        off = apart(logits_of_cut(head, stages, prompt, answer), logits)
        if not off < NEAR:
            return (
                f"{SMALL} says something else in {count} stages than in one piece"
                f" ({len(prompt)} + {len(answer)} tokens: logits {off:.0e} apart)"
            )
    return ""


def uncuttable(model: Any) -> str:
    """Return why models of this family are not served; '' where they are."""
    mixing = [type(module).__name__ for module in model.modules() if MIXTURE.search(type(module).__name__)]
    if mixing:
        return f"it is a mixture of experts ({mixing[0]}), and mixtures are not served yet"
    if "inputs_embeds" not in inspect.signature(model.base_model.forward).parameters:
        return "its forward takes no inputs_embeds"
    if not cache_argument(model.base_model):
        return "its forward takes no past_key_values"
    return ""


def check(folder: Path, say: Say = lambda line: None) -> None:
    """Raises Unservable where a cut of the model in `folder` would not answer as the whole does; no weight is
    read.

    It is tried once for each config and state of the software: the verdict stays in the cache folder.
    """
    config = read_config(folder)
    path = cache_folder() / "trials" / f"{identity(config)}.json"
    if (why := cached_verdict(path)) is None:
        say("first use of this model: a cut of it is compared with the whole, in small")
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(Unservable):  # no such folder can be made: a lock saves work, no more
                stack.enter_context(only_one(path, WAIT_S))
            if (why := cached_verdict(path)) is None:
                with guarded(f"{folder}, a model of kind {config.model_type!r}, cannot be tried"):
                    why = unlike(config, CUTS)
                keep(path, json.dumps({"why": why}).encode())
    if why:
        raise Unservable(f"{folder} is a model of kind {config.model_type!r} that cannot be cut: {why}")


def cached_verdict(path: Path) -> str | None:
    """Return an earlier verdict; None where there is none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        why = json.loads(path.read_text())["why"]
        return why if isinstance(why, str) else None
    return None


def identity(config: Any) -> str:
    """Return a digest of what a verdict depends on: the config, the versions, and the files of the wings that
    compute."""
    values = {name: value for name, value in config.to_dict().items() if name not in SAYS_NOTHING}
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    digest = sha256(json.dumps([values, versions], sort_keys=True, default=str).encode())
    for wing in ("kernels", "nn", "model", "common"):
        for path in sorted((Path(__file__).parent.parent / wing).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
