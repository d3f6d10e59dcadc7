"""Runs the command line: rank 0 becomes the end user, the others workers. Answers go to standard output,
everything else to standard error; what goes wrong is one sentence and a status that is not 0."""

import contextlib
import importlib
import io
import os
import sys
import time
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from ..common import new_file, output, variables
from ..common.errors import Unservable
from ..common.layers import END_USER
from ..common.messages import say
from ..common.options import parse
from ..common.settings import Settings
from ..model.light_imports import leave_out_for_good
from ..net import run_key, shutdown
from ..net.launch_agents import ABSENT, StartPhase, crowded, end_run
from ..net.launcher import complains, launchers_process, secured
from ..net.ssh_keepalive import end_without_keepalive, home, report_phase
from ..net.termination import Termination
from ..protocol.link import Lost, Silence
from . import relay
from .startup_laps import aloud
from .worker import SHUTDOWN_S

if TYPE_CHECKING:
    from ..net.mpi_link import MpiLink

USAGE = 2  # exit status: what was asked for cannot be done
SETTLED_S = 3.0  # a death before all have made their communicators crashes the others (Open MPI 5.0.11)
FAILED = 1  # exit status: the run broke off
ORPHANED = (
    "mpirun died: answers that are under way are finished. python -m jarvis_mpi attach shows them on any "
    "terminal, python -m jarvis_mpi stop ends the run"
)

# Commands that do not run the model: name -> module.
COMMANDS = {
    "setup": "testbed.setup",
    "stage-model": "testbed.stage_model",
    "study": "study.command",
    "fit-patches": "study.fit_patches",
    "fit-draft": "study.fit_draft",
    "doctor": "testbed.doctor",
    "rehearse": "testbed.rehearse",
    "analyse": "app.analyse",
    "attach": "app.attach",
    "stop": "app.stop",
}
# Commands that only these call, here or by ssh: name -> module, function, number of words.
HIDDEN = {
    "probe": ("testbed.probe", "probe", 1),
    "convert-gguf": ("model.gguf", "main", 2),
    "outlive": ("net.outlive_trial", "rank", 1),
    "receive-model": ("testbed.transfer", "receive_here", 0),
}


def main(words: list[str]) -> NoReturn:
    leave_out_for_good()
    if command := COMMANDS.get(words[0] if words else ""):
        output.run(lambda: module_of(command).main(words[1:]))
    if hidden := HIDDEN.get(words[0] if words else ""):
        output.run(lambda: internal(*hidden, words[1:]))
    with output.spoken():
        run(words)


def module_of(place: str) -> ModuleType:
    """Import a command's module in another wing: late, and by name, since app imports no other roof."""
    return importlib.import_module(f"jarvis_mpi.{place}")


def internal(module: str, name: str, count: int, words: list[str]) -> int | str | None:
    """Run a hidden command."""
    if len(words) != count:
        return f"this command is called by others of jarvis_mpi only, with {count} words: it got {len(words)}"
    return getattr(module_of(module), name)(*words)


def run(words: list[str]) -> NoReturn:
    """Run one rank."""
    settings, speaks, debugged = asked(words)
    if sentence := crowded():
        end_run(sentence)
    if debugged:
        from . import debug_log

        debug_log.start(debugged)
    relays = [relay.put_in(name) for name in ("stdout", "stderr")]
    if speaks:
        aloud.begin(f"reading {settings.resume}" if settings.resume else f"looking for {settings.model}")
    link = joined(settings, speaks, debugged)
    outlive(link, relays, speaks)
    status, together = FAILED, False
    try:
        if link.me == END_USER:
            from .end_user import end_user

            status, together = end_user(link, settings, words)
        else:
            from .worker import worker

            status, together = worker(link, settings)
    except (Unservable, Lost, Silence, output.Unwritable) as error:
        together = give_up(link, getattr(error, "sentence", "") or str(error), settings.start_timeout_s)
    except KeyboardInterrupt:
        together = give_up(link, "ended by jarvis_mpi stop", settings.start_timeout_s)
    except BaseException:  # nothing is retried: an unforeseen error is shown, and this rank ends
        if link.me != link.end_user:
            shutdown.die(link, traceback.format_exc(), by_signal=link.vendor == "Open MPI")
        traceback.print_exc()
        together = give_up(link, "the end user failed: the traceback is above", settings.start_timeout_s)
    if speaks and link.orphaned:
        say("mpirun died during this run: its ranks went on without it")
    if sentence := getattr(link, "refused", ""):
        say(sentence)
    new_file.give_back()
    with contextlib.suppress(output.Unwritable):  # which was said when its last line failed
        sys.stdout.flush()
    sys.stderr.flush()
    # mpirun's status is the end user's, which says what went wrong; if that one is gone, the workers'.
    gone = END_USER in link.lost
    link.leave(status if link.me == END_USER or gone else 0, together)


def asked(words: list[str]) -> tuple[Settings, bool, frozenset[str]]:
    """-> the settings, whether this rank says what is wrong, the wings whose messages are logged.
    Ends at a wrong word."""
    try:
        speaks = complains()
        end_without_keepalive()
    except variables.Wrong as error:
        say(str(error))
        sys.exit(USAGE)
    try:
        with contextlib.redirect_stdout(sys.stdout if speaks else io.StringIO()):
            settings = parse(words)
            settings.checked(words_alone=bool(settings.resume))
        debugged = variables.debugged_wings()
    except (Unservable, variables.Wrong) as error:
        if speaks:
            say(str(error))
        # Another rank's status would have mpirun end the one that speaks, before it has.
        sys.exit(USAGE if speaks else 0)
    return settings, speaks, debugged


def outlive(link: "MpiLink", relays: Sequence[relay.Relay], speaks: bool) -> None:
    """Go on when mpirun, or the terminal it was started in, is gone."""

    def move() -> None:
        for each in relays:
            each.move()
        if speaks and os.isatty(2):  # a file would have it in the middle of an answer
            os.write(2, f"\n[{ORPHANED}]\n".encode())

    home.act = move
    if link.launcher.outlive(move):
        Termination(link.launcher)
    elif speaks and link.vendor == "Open MPI" and launchers_process():
        say("this MPI tells nobody that mpirun died: if it does, the run ends")


def joined(settings: Settings, speaks: bool, debugged: frozenset[str]) -> "MpiLink":
    """Join the other ranks. Ends where MPI cannot."""
    from ..net.mpi_link import MpiLink

    try:
        key, notice = run_key.key_for(settings.secure)
    except Unservable as error:  # every rank meets the same
        if speaks:
            say(str(error))
        sys.exit(USAGE if speaks else 0)
    report_phase(StartPhase.IN_MPI_INIT)
    try:
        link = MpiLink(settings.start_timeout_s, speaks)
    except Unservable as error:
        if speaks:
            say(str(error))
        os._exit(FAILED if speaks else 0)  # MPI's own end would wait for the one that died
    report_phase(StartPhase.JOINED)
    run_key.removed()
    if notice and speaks:
        say(notice)
    link = secured(link, key, notice, say)
    if "net" in debugged:
        from ..net.logged_link import logged

        link = logged(link)
    if ABSENT in os.environ:  # launch_agents.rank could not start it on its host, and said why
        time.sleep(SETTLED_S)
        shutdown.die(link, "", by_signal=True)
    return link


def give_up(link: "MpiLink", sentence: str, start_timeout_s: float) -> bool:
    """Say why the run cannot go on, or why this worker cannot take part.
    -> whether all ranks leave together."""
    aloud.over.set()
    if link.end_user in link.lost:
        if link.me == min(set(range(link.size)) - link.lost):
            say(f"the end user (node {link.end_user}) died, and with it the run")
        return False
    if link.me != link.end_user:
        patience_s = max(SHUTDOWN_S, start_timeout_s)
        return shutdown.give_up(link, sentence, patience_s, SHUTDOWN_S, time.monotonic)
    say(sentence)
    peaks = shutdown.part(link, (), SHUTDOWN_S, time.monotonic)
    shutdown.end_stand_ins(set(range(link.size)) - peaks.keys())
    shutdown.release(link, together := len(peaks) == link.size)
    return together
