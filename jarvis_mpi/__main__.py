import sys

if sys.getfilesystemencoding() != "utf-8" or sys.flags.optimize > 1:
    from .common.interpreter import start_again

    start_again()

from .app.cli import main

main(sys.argv[1:])
