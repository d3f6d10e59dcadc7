"""Find running text to be predicted, and cut it into windows."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..common.boundary import guarded
from ..common.cache_folder import Say

if TYPE_CHECKING:
    from ..model.tokenizer import Text


def windows_of(
    text: str, words: "Text", tokens: int, window: int, say: Say, behind: int = 0
) -> list[list[int]]:
    """Return `tokens` token ids behind the first `behind`, in windows (Text.windows)."""
    ids = words.encode(text, begin=False)[behind : behind + tokens]
    if len(ids) < tokens:
        say(f"the text has only {len(ids)} tokens of the {tokens} asked for")
    return [window for window in words.windows(ids, window) if len(window) - len(words.beginning) > 1]


def token_entropy(windows: Sequence[Sequence[int]]) -> float:
    """Return the entropy of the predicted tokens' shares, in nats a token: the cost of a guesser that knows
    the shares and reads nothing."""
    counts = Counter(token for ids in windows for token in ids[1:])
    return -sum(n / counts.total() * math.log(n / counts.total()) for n in counts.values())


def prose() -> str:
    """Return the long paragraphs of the Python Language Reference, which every Python carries, each once."""
    with guarded("the Python here lacks its reference (pydoc_data)", "say --text FILE"):
        from pydoc_data.topics import topics

    paragraphs = [part for name in sorted(topics) for part in topics[name].split("\n\n")]
    long = [part for part in paragraphs if len(part) > 300 and part[0].isalpha() and part.endswith(".")]
    return "\n\n".join(dict.fromkeys(" ".join(part.split()) for part in long if "\n " not in part))
