"""Token ids -> text, one after the other, as they come."""

from collections.abc import Sequence
from typing import Any

from .boundary import guarded

HALF = "\ufffd"  # what a decoder says where a character of several bytes is not whole


class Pieces:
    """Of one answer: what one more token adds; '' while a character of several bytes is not whole.

    Joined they are what the tokenizer says of all ids together. Where a later token would change what stands on the screen (in a
    run of byte tokens half a character makes all of them unreadable), what stands there stays, and the rest follows it.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        # ids[start:shown] are decoded again with what follows: a piece depends on the one before it (its space).
        self.start = self.shown = 0

    def __call__(self, token: int) -> str:
        """Raises Unservable where the tokenizer cannot say anything of it."""
        with guarded(
            f"the tokenizer cannot make text of token {token}", "fetch the model's tokenizer files again"
        ):
            if not self.knows(token):  # a model may have more tokens than its tokenizer, to fill up a matrix
                return ""
            self.ids.append(token)
            before, now = self.text(self.ids[self.start : self.shown]), self.text(self.ids[self.start :])
            if now.endswith(HALF):
                return ""
            new = now[len(before) :] if now.startswith(before) else self.text(self.ids[self.shown :])
        if new:
            self.start, self.shown = self.shown, len(self.ids)
        return new

    def knows(self, token: int) -> bool:
        try:
            return self.tokenizer.convert_ids_to_tokens(token) is not None
        except IndexError:  # SentencePiece's own
            return False

    def text(self, ids: Sequence[int]) -> str:
        said = self.tokenizer.decode(ids, skip_special_tokens=True)
        return str(said)
