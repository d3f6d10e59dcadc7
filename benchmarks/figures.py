"""The README's figure gallery, from runs that are made here: SmolLM2 over up to nine ranks of this machine,
real faults.

make figures   (4 minutes; records and PDF files stay in runs/figures, the pictures go to docs/figures)
"""

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks import ROOT
from benchmarks.arguments import parser
from benchmarks.chain import command
from jarvis_mpi.record.reader import load

RUNS, PICTURES = ROOT / "runs" / "figures", ROOT / "docs" / "figures"
PROMPT = "Tell me the story of a raindrop, from the cloud to the sea."
FAULTS = "kill 3 @ 40; stop 6 @ 80 for 4s; stall 2 @ 140 for 3s"


def run(name: str, ranks: int, tokens: int, *words: str) -> Path:
    log = RUNS / f"{name}.h5"
    print(f"{name}: {ranks} ranks", flush=True)
    asked = ("--prompt", PROMPT, "--max-new-tokens", str(tokens), "--ignore-eos")
    subprocess.run(
        command(ranks, log, *asked, *words, limit_s=180), cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )
    assert load(log).ended == "done"
    return log


def draw(script: str, *words: str | Path) -> None:
    out = ["--out", RUNS, "--formats", "png,pdf"]
    subprocess.run([sys.executable, ROOT / "analysis" / f"{script}.py", *words, *out], cwd=ROOT, check=True)


def main() -> None:
    parser(__doc__).parse_args()
    shutil.rmtree(RUNS, ignore_errors=True)
    RUNS.mkdir(parents=True)
    quiet = run("quiet", 9, 100)
    faults = run("faults", 9, 200, "--fault", FAULTS)
    skipped = run("skipped", 9, 200, "--on-fault", "skip", "--fault", FAULTS)
    chains = [run(f"{ranks - 1} workers", ranks, 60) for ranks in (2, 3, 5, 9)]
    draw("latency", faults, skipped)
    draw("timeline", quiet)
    draw("timeline", faults)
    draw("hops", quiet)
    draw("faults", faults, skipped)
    draw("compare", *chains, "--by", "nodes")
    PICTURES.mkdir(parents=True, exist_ok=True)
    for picture in RUNS.glob("*.png"):
        shutil.copy(picture, PICTURES)


if __name__ == "__main__":
    main()
