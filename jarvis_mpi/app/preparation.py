"""Loads something beside the work of a node, or at once."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Parts = TypeVar("Parts")


class Preparation(Generic[Parts]):
    """What `make` makes, once. What it raises is raised by whoever wants to have it, or to know of it."""

    def __init__(self, make: Callable[[], Parts]):
        self.make = make
        self.made: Future[Parts] = Future()
        self.has_begun = False

    def load(self) -> None:
        self.has_begun = True
        try:
            self.made.set_result(self.make())
        except BaseException as error:
            self.made.set_exception(error)

    def begin(self) -> Callable[[], bool]:
        """Load it in a thread. -> whether it is there."""
        if not self.has_begun:
            self.has_begun = True
            threading.Thread(target=self.load, name="preparation", daemon=True).start()
        return self.is_loaded

    def is_loaded(self) -> bool:
        return self.made.done() and bool(self.made.result())

    def result(self) -> Parts:
        """What is there; where nobody has begun to load it, it is loaded now."""
        if not self.has_begun:
            self.load()
        return self.made.result()
