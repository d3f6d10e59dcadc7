"""What every script of this folder ends with: whatever its files make it raise is one sentence and status 1."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from jarvis_mpi.boundary import guarded
from jarvis_mpi.link import Unservable

INTERRUPTED = 130


def run(main: Callable[[], int | None]) -> None:
    """Call `main`, and exit with its status."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as | head expects it
    files = " ".join(word for word in sys.argv[1:] if not word.startswith("-"))
    try:
        with guarded(f"{Path(sys.argv[0]).name} cannot use {files}", "is it whole, and of the right kind"):
            status = main()
    except Unservable as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(status)
