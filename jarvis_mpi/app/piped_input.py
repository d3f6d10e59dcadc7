"""Reads standard input beside --prompt: `cat text | mpirun ... --prompt "Sum it up:"` asks about the text.

mpirun hands its standard input on to rank 0 and never ends it, and whoever starts mpirun may leave it open
for ever without writing: so it is read beside the start, and no wait is longer than a few
seconds. keyboard.py explains how the end is seen.
"""

import os
import select
import stat
import sys
import threading
import time

from ..common.errors import Unservable
from ..common.given_file import MARK
from ..net.launcher import launchers_process
from .keyboard import LOOK_S, has_ended, opened

FIRST_S = 2.0  # longest wait for the first byte: the start takes as long
NEXT_S = 10.0  # and for more, behind it
BLIND_S = 2.0  # and where the end cannot be seen
LOOKS = 3  # for something that mpirun has read to its end and not handed on yet
MOST_BYTES = 1 << 26
MPIRUNS = "PRTE_LAUNCHED"  # in the environment of what mpirun started
JOINT = "\n\n"  # between a prompt and what came
ALL_OF_IT = "-"  # in place of a prompt: what comes, which no list of processes shows


class Piped:
    """Reads from the beginning on; `text` is what came. `most`: bytes, behind which nothing more is read."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.most = most
        process = launchers_process()
        self.source = opened(process)  # mpirun's standard input, to look at and never to read
        self.launched = process is not None or MPIRUNS in os.environ  # it may be gone by now
        self.sees_the_end = self.source is not None or not self.launched
        self.is_cut = False  # mpirun died while it handed the input on
        self.data, self.ended = bytearray(), False
        self.thread = threading.Thread(target=self.read, name="standard input", daemon=True)
        self.thread.start()

    def read(self) -> None:
        """In the thread."""
        descriptor = 0 if self.source is None else self.source
        last, looks = time.monotonic(), 0
        if sys.stdin is None or os.isatty(0) or os.isatty(descriptor):
            return
        try:
            while len(self.data) <= self.most:
                now = time.monotonic()
                if select.select([0], [], [], LOOK_S)[0]:
                    if not (more := os.read(0, 1 << 16)):
                        self.ended, self.is_cut = True, self.launched
                        return
                    self.data += more
                    last, looks = time.monotonic(), 0
                elif has_ended(self.source) and (looks := looks + 1) >= LOOKS:
                    self.ended = True
                    return
                elif now - last > self.patience_s:
                    return
        except OSError:  # it is closed
            self.ended = True

    @property
    def reads_a_device(self) -> bool:
        """Whether it is /dev/null, which holds nothing."""
        return self.source is not None and stat.S_ISCHR(os.fstat(self.source).st_mode)

    @property
    def patience_s(self) -> float:
        if not self.data:
            return FIRST_S
        return NEXT_S if self.sees_the_end else BLIND_S

    def text(self) -> str:
        """What came; '' if nothing did. Raises Unservable where that is no text."""
        self.thread.join()  # which has its own deadlines
        if self.is_cut and (self.data or not self.reads_a_device):
            raise Unservable("mpirun died before it had handed all of standard input on: ask again")
        if len(self.data) > MOST_BYTES:
            raise Unservable(
                f"standard input holds over {MOST_BYTES >> 20} MB, which no model takes: shorten it"
            )
        if 0 in self.data:
            raise Unservable(
                "standard input holds zero bytes, so it is no text to append to --prompt: save it as UTF-8,"
                " or say < /dev/null"
            )
        try:
            text = self.data.decode().lstrip(MARK)
        except UnicodeDecodeError:
            raise Unservable(
                "standard input is not UTF-8 text, so it cannot be appended to --prompt: save it as UTF-8,"
                " or say < /dev/null"
            ) from None
        return text if text.strip() else ""

    def left_out(self, why: str) -> str:
        """Return the notice where nothing is appended; '' if nothing came."""
        self.thread.join()
        return f"what comes on standard input is left out: {why}" if self.data.strip() else ""

    def appended_to(self, prompt: str) -> tuple[str, str]:
        """Append the text. -> `prompt` with it, and a notice; '' if there is nothing to say.
        Raises Unservable where nothing came that is all of the prompt."""
        if text := self.text():
            end = "" if self.ended or not self.sees_the_end else f"; its end did not come within {NEXT_S:g} s"
            if prompt == ALL_OF_IT:
                return text.rstrip(), f"standard input is the prompt: {len(text)} characters{end}"
            notice = f"standard input is appended to --prompt: {len(text)} characters{end}"
            return f"{prompt}{JOINT}{text.rstrip()}", notice
        if prompt == ALL_OF_IT:
            raise Unservable("--prompt - takes the prompt from standard input, but nothing came there")
        if not self.ended and self.source is not None and stat.S_ISFIFO(os.fstat(self.source).st_mode):
            return prompt, (
                f"nothing came on standard input within {FIRST_S:g} s: nothing is appended to --prompt"
                " (< /dev/null says that there is nothing)"
            )
        return prompt, ""
