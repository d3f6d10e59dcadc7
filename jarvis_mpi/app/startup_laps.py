"""Measures each part of the start; prints a line for each where standard error goes to a file, which somebody
may watch."""

import threading
import time

from ..common.messages import say
from .terminal import goes_to_a_file

AGAIN_S = 10.0  # a part that takes longer is printed again
NEXT = {  # part -> what begins after it
    "model_s": "importing torch and transformers",
    "imports_s": "checking the model",
    "trial_s": "asking the other nodes",
    "hellos_s": "loading my layers",
    "own_load_s": "the other nodes load theirs",
}
LAST = "others_load_s"


class Aloud:
    """Prints the lines: the first one before MPI starts; none where nobody needs them."""

    def __init__(self) -> None:
        self.begun, self.part, self.over = time.monotonic(), "", threading.Event()
        self.printed_at = self.begun

    def begin(self, part: str) -> None:
        if goes_to_a_file(2):
            self.tell(part)
            threading.Thread(target=self.tell_again, name="laps", daemon=True).start()

    def tell(self, part: str) -> None:
        self.part, self.printed_at = part, time.monotonic()
        say(f"starting, {time.monotonic() - self.begun:.0f} s: {part}")

    def tell_again(self) -> None:
        while not self.over.wait(max(0.1, self.printed_at + AGAIN_S - time.monotonic())):
            if time.monotonic() - self.printed_at >= AGAIN_S:
                self.tell(self.part)

    def lap(self, name: str) -> None:
        if name == LAST:
            self.over.set()
        if self.part and name in NEXT:
            self.tell(NEXT[name])


aloud = Aloud()  # of this process, which starts once


class Laps:
    def __init__(self, **seconds: float):
        self.seconds, self.since = seconds, time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = round(now - self.since, 3)
        self.since = now
        aloud.lap(name)
