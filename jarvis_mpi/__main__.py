import os
import sys

if sys.getfilesystemencoding() != "utf-8":  # what is asked, said, read and kept is UTF-8, whatever the locale
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])

from .cli import main

main(sys.argv[1:])
