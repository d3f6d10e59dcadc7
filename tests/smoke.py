"""The least that must work in any environment: python tests/smoke.py [--quick]

Run by the interpreter that is to be tried, with jarvis_mpi installed into it. A line for each step, then one
for all; the status is 0 if all of them passed. --quick: imports and one answer.
"""

import importlib
import os
import pkgutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
LONGEST_S = 600
RUN = ["timeout", "-k", "5", "300", "mpirun", "-hostfile", str(ROOT / "hostfiles/local"), "-n", "3"]
MODEL = (
    "import pathlib, sys, texts, tiny; texts.of_bytes(tiny.make('llama', pathlib.Path(sys.argv[1]), "
    "vocab_size=260))"
)
JARVIS = [sys.executable, "-m", "jarvis_mpi"]


def imports() -> str:
    """'' if each module can be imported, else what could not."""
    import jarvis_mpi

    for module in pkgutil.walk_packages(jarvis_mpi.__path__, "jarvis_mpi."):
        if not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except Exception as error:
                return f"{module.name}: {type(error).__name__}: {error}"
    return ""


def steps(folder: Path) -> dict[str, list[str]]:
    """What is run, by name, the quick ones first."""
    pytest = [sys.executable, "-m", "pytest", "-q"]
    record = folder / "run.h5"
    return {
        "setup": [*JARVIS, "setup"],
        "an answer with a kill": [
            *RUN, *JARVIS, "--prompt", "Why is the sky blue?", "--max-new-tokens", "20",
            "--fault", "kill 2 @ 5", "--log", str(record),
        ],
        "pure tests": [*pytest, "tests/protocol/test_pure.py"],
        "stories": [*pytest, "tests/protocol/test_sim.py", "-k", "every_seed"],
        "a small model": [
            sys.executable, "-c", MODEL,
            str(folder / "model"),
        ],
        "a study case": [
            *RUN, *JARVIS, "study", "--model", str(folder / "model"), "--cases", "1", "--tokens", "64",
            "--window", "64",
            "--log", str(folder / "study.h5"),
        ],
        "a figure": [sys.executable, "analysis/latency.py", str(record), "--out",
                     str(folder / "latency.pdf")],
    }  # fmt: skip


def passes(name: str, words: list[str], environment: dict[str, str]) -> bool:
    begun = time.monotonic()
    try:
        done = subprocess.run(
            words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LONGEST_S, check=False
        )
        failed = done.returncode != 0 or "Traceback" in done.stderr
        said = (done.stdout + done.stderr).splitlines()[-15:]
    except subprocess.TimeoutExpired:
        failed, said = True, [f"not done after {LONGEST_S} s"]
    print(f"{'FAILED' if failed else 'passed'}  {name}, {time.monotonic() - begun:.0f} s", flush=True)
    if failed:
        print("\n".join(f"    {line}" for line in said), flush=True)
    return not failed


def main() -> int:
    quick = "--quick" in sys.argv[1:]
    of = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "numpy"))
    print(f"Python {sys.version.split()[0]}, {of}", flush=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "HF_HUB_OFFLINE": "1",
    }
    environment["PATH"] = sysconfig.get_path("scripts") + os.pathsep + environment["PATH"]
    environment.setdefault("JARVIS_SEEDS", "300")
    if os.getuid() == 0:  # mpirun's own condition
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    sys.path.insert(0, str(ROOT))
    wrong = imports()
    print(f"FAILED  imports: {wrong}" if wrong else "passed  imports", flush=True)
    results = [not wrong]
    with tempfile.TemporaryDirectory() as folder:
        for name, words in list(steps(Path(folder)).items())[: 2 if quick else None]:
            results.append(passes(name, words, environment))
    print(f"{sum(results)} of {len(results)} passed", flush=True)
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main())
