"""Start Python as we need it: in UTF-8 mode, whatever the locale, and with docstrings, which transformers
reads and -OO removes."""

import os
import re
import sys

LETTERS = "-[bBdEhiIOPqRsSuvVx]+"  # Python's own options without a value


def start_again() -> None:
    """Start this process again, with the same words. Returns where that would change nothing."""
    words = sys.orig_argv[1:]
    begin = words.index("-m") if "-m" in words else 0
    if sys.flags.optimize > 1:
        named = os.environ.pop("PYTHONOPTIMIZE", None)
        options = [re.sub("O", "", word) if re.fullmatch(LETTERS, word) else word for word in words[:begin]]
        if named is None and options == words[:begin] and sys.getfilesystemencoding() == "utf-8":
            return
        words[:begin] = [word for word in options if word != "-"]
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *words])
