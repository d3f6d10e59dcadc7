"""The command line of a benchmark: its head is its --help, and what it needs of this machine."""

import argparse
import sys

from jarvis_mpi.testbed import own_hosts


def parser(description: str | None) -> argparse.ArgumentParser:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return argparse.ArgumentParser(
        prog=f"python -m {spec.name}" if spec else None,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def require_hosts() -> None:
    """End with status 1, and the reason, where no hosts of one's own can be made."""
    if why := own_hosts.missing():
        sys.exit(why)
