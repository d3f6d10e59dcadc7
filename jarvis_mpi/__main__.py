import os
import sys

if sys.version_info < (3, 11):  # noqa: UP036 (nothing has installed it there)
    sys.exit(f"jarvis_mpi needs Python 3.11 or newer, and {sys.executable} is {sys.version.split()[0]}")

if not __package__:
    sys.exit(
        f"start it as a module, from the folder above or with the package installed: {sys.executable} -m "
        "jarvis_mpi"
    )

# `python -m` looks for modules in the working folder first, where a random.py may lie that is the user's own.
if sys.path and sys.path[0] and os.path.isdir(sys.path[0]) and os.path.samefile(sys.path[0], os.curdir):  # noqa: PTH112, PTH121
    del sys.path[0]
# So it does where PYTHONPATH has an empty entry, as PYTHONPATH=$PYTHONPATH:/mine has one.
named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
if len(named) > 1 and "" in named and os.getcwd() not in named:  # noqa: PTH109
    sys.path[:] = [path for path in sys.path if path != os.getcwd()]  # noqa: PTH109

if sys.getfilesystemencoding() != "utf-8" or sys.flags.optimize > 1:
    from .common.interpreter import start_again

    start_again()

if any(option.startswith("error") for option in sys.warnoptions):  # a library's warning ends no run of ours
    import warnings

    warnings.simplefilter("default")

try:
    from .app.cli import main
except ModuleNotFoundError as error:
    if str(error.name).startswith("jarvis_mpi"):
        raise
    sys.exit(
        f"{sys.executable} has no {error.name}: activate the environment that jarvis_mpi was set up in (. "
        ".venv/bin/activate), or make one (make setup)"
    )

main(sys.argv[1:])
