"""Ends an answer at a stop string: --stop."""

from collections.abc import Iterable, Sequence


class Stops:
    """Ends an answer before any of `stops`; text that may be the beginning of one is held back.

    Special tokens are not shown. A stop that holds one of `special` is looked for in all of the text, any
    other in what is shown.
    """

    def __init__(self, stops: Sequence[str], special: Iterable[str] = ()):
        named = [words for words in special if words]
        self.with_special = [stop for stop in stops if any(words in stop for words in named)]
        self.plain = [stop for stop in stops if stop and stop not in self.with_special]
        self.waiting: list[tuple[str, bool]] = []  # characters, and whether each is shown
        self.met = False

    @property
    def held(self) -> str:
        return shown_of(self.waiting)

    def add(self, piece: str, special: str = "") -> str:
        """Add `piece`, or the text of a `special` token. -> what can be shown now."""
        self.waiting += [(letter, True) for letter in piece]
        if self.with_special:
            self.waiting += [(letter, False) for letter in special]
        views = [(self.plain, [at for at, (_, shown) in enumerate(self.waiting) if shown])]
        views += [(self.with_special, list(range(len(self.waiting))))]
        found, held_from = len(self.waiting), len(self.waiting)
        for stops, places in views:
            text = "".join(self.waiting[at][0] for at in places)
            for stop in stops:
                if (at := text.find(stop)) >= 0:
                    self.met, found = True, min(found, places[at])
                elif length := begun(stop, text):
                    held_from = min(held_from, places[-length])
        end = found if self.met else held_from
        shown, self.waiting = self.waiting[:end], [] if self.met else self.waiting[end:]
        return shown_of(shown)


def shown_of(letters: Iterable[tuple[str, bool]]) -> str:
    return "".join(letter for letter, shown in letters if shown)


def begun(stop: str, text: str) -> int:
    """Return how much of the end of `text` is the beginning of `stop`."""
    lengths = range(min(len(stop) - 1, len(text)), 0, -1)
    return next((length for length in lengths if text.endswith(stop[:length])), 0)
