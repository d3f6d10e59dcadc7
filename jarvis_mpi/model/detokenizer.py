"""Turn token ids into text, one after the other, as they come."""

from collections.abc import Sequence
from typing import Any

from ..common.boundary import guarded
from ..common.sequences import alike

HALF = "\ufffd"  # what a decoder gives for an incomplete character of several bytes
# A tokenizer with clean_up_tokenization_spaces takes a space out of these, once they are whole.
TIDIED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class Pieces:
    """The pieces of one answer's text: what one more token adds; '' while a character of several bytes is not
    whole.

    Joined they are what the tokenizer makes of all ids together. Where a later token would change text that
    was already given (in a run of byte tokens half a character makes all of them unreadable), that text
    stays, and the rest follows it.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.tidies = bool(getattr(tokenizer, "clean_up_tokenization_spaces", False))
        # A decoder in Python may change the end of a text: CTRL's of "hel@@" and "lo". Then a piece waits for
        # the next token.
        self.waits = not getattr(tokenizer, "is_fast", True)
        self.given = 0  # characters, where it waits
        self.ids: list[int] = []
        # ids[start:shown] are decoded again with what follows: a piece depends on the one before it (its
        # space).
        self.start = self.shown = 0

    def __call__(self, token: int) -> str:
        """Return what `token` adds. Raises Unservable where the tokenizer cannot decode it."""
        with guarded(
            f"the tokenizer cannot make text of token {token}", "fetch the model's tokenizer files again"
        ):
            if not self.knows(token):  # a model may have more tokens than its tokenizer, to fill up a matrix
                return ""
            self.ids.append(token)
            if self.waits:
                return self.confirmed()
            now = self.text(self.ids[self.start :])
            if now.endswith(HALF) or (self.tidies and may_be_tidied(self.untidied())):
                return ""
            new = self.added(now)
        if new:
            # A tokenizer that tidies spaces may change any number of earlier tokens: then all are decoded
            # again.
            self.start, self.shown = 0 if self.tidies else self.shown, len(self.ids)
        return new

    def confirmed(self) -> str:
        """Return what the newest token leaves as it was, of the text that was not given yet."""
        if self.tidies and may_be_tidied(self.untidied()):
            return ""
        now = self.text(self.ids)
        common = now[: alike(self.text(self.ids[:-1]), now)].rstrip(HALF)
        new, self.given = common[self.given :], max(self.given, len(common))
        return new

    def rest(self) -> str:
        """Return the text that was held back, once no more tokens come: a space at the end, and half a
        character, for which a decoder gives HALF."""
        if self.waits:
            return self.text(self.ids)[self.given :]
        return self.added(self.text(self.ids[self.start :]))

    def added(self, now: str) -> str:
        """Return what `now`, of ids[start:], has behind the text of ids[start:shown]."""
        before = self.text(self.ids[self.start : self.shown])
        return now[len(before) :] if now.startswith(before) else self.text(self.ids[self.shown :])

    def untidied(self) -> str:
        return str(
            self.tokenizer.decode(self.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def knows(self, token: int) -> bool:
        try:
            return self.tokenizer.convert_ids_to_tokens(token) is not None
        except IndexError:  # SentencePiece's own
            return False

    def text(self, ids: Sequence[int]) -> str:
        decoded = self.tokenizer.decode(ids, skip_special_tokens=True)
        return str(decoded)


def may_be_tidied(words: str) -> bool:
    """Return whether the end of `words` may begin something that a space is taken out of."""
    return any(words.endswith(each[:length]) for each in TIDIED for length in range(1, len(each)))
