"""The pages: links that resolve, parts that come from the code, commands that run, and words that are not
used."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from places import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: .{10,} -->\n\Z")
SHELL = ("sh", "console")

# Commands that run here, in a folder of their own: they begin so.
QUICK = (
    "python analysis/",
    "python -m jarvis_mpi.record.replay",
)
# Commands that another test runs: how they begin, and which.
ELSEWHERE = {
    "python analysis/skip_map.py ": "test_study.py",
    **{
        f"python analysis/{name}.py ": "test_record_figures.py"
        for name in ("latency", "timeline", "hops", "faults", "compare")
    },
    "make ": "test_docs.py",  # the target is there; CI runs `make test`
    ". .venv/bin/activate": "test_docs.py",  # as the Makefile does
    "mpirun -hostfile hostfiles/local -n 9 python -m jarvis_mpi --prompt ": "test_mpirun.py",
    "mpirun -hostfile hostfiles/local -n 9 python -m jarvis_mpi --prompts ": "test_batch.py",
    "mpirun -hostfile hostfiles/local -n 9 python -m jarvis_mpi --patches ": "test_patch_runs.py",
    "mpirun -hostfile hostfiles/local -n 9 python -m jarvis_mpi": "test_chat.py",
    "cat tests/conftest.py | mpirun": "test_piped.py",
    "printf ": "test_piped.py",
    "mpirun -n 3 python -m jarvis_mpi study ": "test_study.py",
    "python -m jarvis_mpi fit-patches ": "test_patch_runs.py",
    "python -m jarvis_mpi doctor --model ": "test_doctor.py",
    "PROMPT=": "test_jobs.py",
    "python -m jarvis_mpi attach": "test_launcher.py",
    "python -m jarvis_mpi stop": "test_launcher.py",
}
# As the house says instead: predicted, continued, given again, bypassed, nothing is redone, N, as before.
UNUSED = (
    "foretold", "foretell", "gone on with", "said anew", "told anew", "anew", "done without",
    "nobody redoes", "so many",
    "as ever", "tells every knob", "every knob", "right or wrong", "crew", "flight plan", "nought", "upkeep",
    "roll call",
)  # fmt: skip


class Command(NamedTuple):
    page: Path
    words: str


def read(page: Path) -> str:
    return page.read_text()


def prose(text: str) -> str:
    """Without blocks, code spans and comments."""
    return re.sub(r"`[^`\n]*`|<!--.*?-->", "", FENCE.sub("", text), flags=re.DOTALL)


def commands() -> Iterator[Command]:
    """Every command of a shell's block that is not marked as not run."""
    for page in PAGES:
        text = read(page)
        for block in FENCE.finditer(text):
            if block[1] not in SHELL or NOT_RUN.search(text[: block.start()]):
                continue
            lines = block[2].replace("\\\n", " ").splitlines()
            if block[1] == "console":  # what is typed stands behind a dollar, the rest is what is printed
                lines = [line[2:] for line in lines if line.startswith("$ ")]
            for line in lines:
                if words := re.sub(r"\s+#\s.*", "", line).strip():
                    yield Command(page, words)


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub and mkdocs make it."""
    plain = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", plain.lower()).strip())


def anchors(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", FENCE.sub("", read(page)), re.MULTILINE)}


def test_the_readme_is_read_in_one_go():
    assert len(read(ROOT / "README.md").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(read(page))):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            wrong.append(target)
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page):
    named = re.findall(r"`(?:python )?((?:[\w.]+/)+[\w.]+\.(?:py|sh|sbatch|csv|svg|cast|md))\b", read(page))
    places = (ROOT, ROOT / "jarvis_mpi", page.parent)
    assert not [name for name in named if not any((place / name).exists() for place in places)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_benchmarks_that_a_page_names_are_there(page):
    named = re.findall(r"python -m (benchmarks[.\w]*\w)", read(page))
    places = {name: ROOT / name.replace(".", "/") for name in named}
    missing = [
        name
        for name, path in places.items()
        if not (path.with_suffix(".py").exists() or (path / "__main__.py").exists())
    ]
    assert not missing


def test_what_comes_from_the_code_is_current():
    done = subprocess.run(
        [sys.executable, "docs/make/generated.py", "--check"], cwd=ROOT, capture_output=True, text=True,
        timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_is_run_by_a_test_or_marked():
    begins = (*QUICK, *ELSEWHERE)
    unknown = [f"{page.name}: {words}" for page, words in commands() if not words.startswith(begins)]
    assert not unknown, "run it here, name its test, or say in <!-- not run: why --> above the block"
    assert not [name for name in ELSEWHERE.values() if not list((ROOT / "tests").rglob(Path(name).name))]


def test_every_target_of_make_is_there():
    targets = set(re.findall(r"^([\w-]+):", read(ROOT / "Makefile"), re.MULTILINE))
    named = {
        word for page in PAGES for word in re.findall(r"(?:`|\n)make ([a-z-]+)(?: +#|`| LLAMA)", read(page))
    }
    assert named - targets == set()


@pytest.mark.slow
def test_quick_commands_run(tmp_path):
    def run(words: str) -> str:
        folder = tmp_path / re.sub(r"\W+", "-", words)
        folder.mkdir()
        for name in ("docs/studies", "tests/records"):  # into which some of them write
            shutil.copytree(ROOT / name, folder / name)
        (folder / "analysis").symlink_to(ROOT / "analysis")
        line = re.sub(r"^python ", f"{shlex.quote(sys.executable)} ", words)
        done = subprocess.run(
            line, shell=True, cwd=folder, capture_output=True, text=True, timeout=120,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        return "" if done.returncode == 0 else f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"

    lines = sorted({
        words for _, words in commands() if words.startswith(QUICK) and not words.startswith(tuple(ELSEWHERE))
    })  # fmt: skip
    assert lines
    with ThreadPoolExecutor(2) as pool:
        assert not [wrong for wrong in pool.map(run, lines) if wrong]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_words_are_the_houses(page):
    text = " ".join(prose(read(page)).lower().split())
    assert not [word for word in UNUSED if re.search(rf"\b{word}\b", text)]
