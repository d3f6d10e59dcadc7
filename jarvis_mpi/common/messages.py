"""Write one line for the person at the terminal."""

import sys


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
