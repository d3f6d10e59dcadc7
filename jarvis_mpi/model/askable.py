"""Check that a prompt fits into the positions that a model takes."""

import contextlib
from collections.abc import Sequence

from ..common.errors import Unservable
from .tokenizer import Text

TRIED = 20  # prompts, for the length of the longest that can be asked


def askable(text: Text, ids: Sequence[int], prompt: str, context: int) -> list[int]:
    """Return the ids of `prompt` after `ids`.
    Raises Unservable if they do not fit into `context` positions."""
    if not prompt.strip():
        raise Unservable("the prompt is empty: there is nothing to answer")
    whole, advice = ("the conversation would have", "") if ids else ("the prompt has", ": shorten it")
    if len(prompt) > context and (fewest := text.fewest_tokens(prompt)) >= context:
        raise Unservable(f"{whole} over {fewest} tokens, the model takes {context}{advice}")
    if (count := len(asked := text.after(ids, prompt))) >= context:
        raise Unservable(f"{whole} {count} tokens, the model takes {context}{advice}")
    if asked == list(ids):
        raise Unservable(
            f"the model's tokenizer leaves nothing of the prompt {prompt[:20]!r}: there is nothing to answer"
        )
    return asked


def longest(text: Text, prompts: Sequence[str], context: int) -> int:
    """Return the tokens of the longest of `prompts` that can be asked; an estimate, where counting takes too
    long."""
    by_length = sorted(prompts, key=len, reverse=True)
    for prompt in by_length[:TRIED]:
        with contextlib.suppress(Unservable):
            return len(askable(text, (), prompt, context))
    return min([context, *map(len, by_length[TRIED : TRIED + 1])]) if by_length[TRIED:] else 0
