"""Runs rank 0, the end user: prompt in, text out.
Heavy modules are imported after what can be refused at once."""

import time
from collections.abc import Sequence

import psutil

from ..common.layers import END_USER
from ..common.settings import Settings
from ..model.light_imports import light_imports
from ..net.handshake import hello
from ..net.shutdown import part, release
from ..protocol.link import Link
from .opening import find_model, open_run, print_done
from .startup_laps import Laps
from .worker import SHUTDOWN_S


def end_user(link: Link, settings: Settings, words: Sequence[str]) -> tuple[int, bool]:
    """Answer what is asked, by the command line's `words` or by the resumed run.

    -> exit status, and whether all ranks part together. Raises Unservable.
    """
    laps = Laps(before_main_s=time.time() - psutil.Process().create_time())
    asked = open_run(link, settings, words)
    if asked.is_done:
        return print_done(asked), part_at_once(link)
    asked, files = find_model(link, asked)
    mine = hello(END_USER, files.fingerprint, patches=files.patches.digest if files.patches else "")
    laps.lap("model_s")
    with light_imports():
        from .served_model import import_model_code
        from .serving import serve

        import_model_code(files.folder)
    laps.lap("imports_s")
    return serve(link, asked, files, mine, laps)


def part_at_once(link: Link) -> bool:
    """End a run before any work was handed out. -> whether all ranks leave together."""
    nodes = part(link, (), SHUTDOWN_S, time.monotonic)
    release(link, together := len(nodes) == link.size)
    return together
