"""The study's scores beside lm-eval's, question by question, on the same weights in float32.

    python -m benchmarks.data.study_questions
    python -m venv OTHER && OTHER/bin/pip install lm-eval==0.4.13 "transformers[torch]"
    python -m benchmarks.quality.lm_eval_equal OTHER/bin/python [--models ...] [--questions 40]

MMLU by letters, without and with five examples, of three subjects, by lm-eval's own template; and BIG-bench's
general_knowledge and social_iqa by its bigbench template (several tokens a choice). The last line is JSON.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.arguments import parser
from jarvis_mpi.common.cache_folder import cache_folder
from jarvis_mpi.model import checkpoint
from jarvis_mpi.model.family import dtype_of, load_config, quiet
from jarvis_mpi.model.tokenizer import Text
from jarvis_mpi.record import study_file
from jarvis_mpi.study.scorer import Scorer, encoded
from jarvis_mpi.study.tasks import TaskQuestion, questions

SUBJECTS = ("anatomy", "world_religions", "high_school_geography")
BIGBENCH = ("general_knowledge", "social_iqa")
LIMIT_S = 3000
TEMPLATES = """
import lm_eval, pathlib
print(pathlib.Path(lm_eval.__file__).parent / "tasks")
"""


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mmlu_task(
    name: str, subject: str, shots: int, data: Path, scratch: Path, count: int, theirs: Path
) -> str:
    """lm-eval's own template for the subject, over our files."""
    rows = [json.loads(line) for line in (data / "mmlu.jsonl").read_text().splitlines()]
    own = [
        row for row in rows if row["topic"].replace(" ", "_") == subject and row["correct_answer"] in "ABCD"
    ][:count]
    write_lines(scratch / f"{name}_ours.jsonl", own)
    test = [
        {"question": row["question"], "choices": [row[f"answer_{letter}"] for letter in "abcd"],
         "answer": "ABCD".index(row["correct_answer"])}
        for row in own
    ]  # fmt: skip
    dev = [json.loads(line) for line in (data / "mmlu_dev.jsonl").read_text().splitlines()]
    shown = [{key: row[key] for key in test[0]} for row in dev if row["subject"] == subject]
    files = {
        "test": str(write_lines(scratch / f"{name}_test.jsonl", test)),
        # `datasets` wants each split's columns equal.
        "dev": str(write_lines(scratch / f"{name}_dev.jsonl", shown)),
    }
    head = (
        f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    )
    return config(
        scratch,
        name,
        theirs / "mmlu" / "default" / "_default_template_yaml",
        files,
        description=head,
        num_fewshot=shots,
    )


def bigbench_task(name: str, asked: list[TaskQuestion], scratch: Path, theirs: Path) -> str:
    rows = [
        {"inputs": question.context, "targets": [question.choices[question.answer].removeprefix(" ")],
         "multiple_choice_targets": [choice.removeprefix(" ") for choice in question.choices],
         "multiple_choice_scores": [int(at == question.answer) for at in range(len(question.choices))]}
        for question in asked
    ]  # fmt: skip
    template = theirs / "bigbench" / "multiple_choice_template_a_yaml"
    return config(
        scratch, name, template, {"default": str(write_lines(scratch / f"{name}.jsonl", rows))}, num_fewshot=0
    )


def config(scratch: Path, name: str, template: Path, files: dict[str, str], **more) -> str:
    said = {
        "include": str(template),
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        **more,
    }
    (scratch / f"{name}.yaml").write_text(json.dumps(said))  # JSON is YAML
    return name


def theirs_said(
    python: str, folder: Path, names: list[str], scratch: Path
) -> dict[str, dict[int, list[float]]]:
    """task -> question -> nats of each choice."""
    out = scratch / "out"
    command = [
        python, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={folder},dtype=float32",
        "--tasks", ",".join(names),
        "--include_path", scratch, "--device", "cpu", "--batch_size", "1", "--log_samples", "--output_path",
        out,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, cwd=scratch)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, dict[int, list[float]]] = {}
    for name in names:
        (file,) = out.rglob(f"samples_{name}_*.jsonl")
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        found[name] = {row["doc_id"]: [-float(resp[0]) for resp in row["filtered_resps"]] for row in rows}
    return found


def main() -> None:
    made = parser(__doc__)
    made.add_argument("python", help="of an environment with lm-eval")
    made.add_argument("--models", nargs="+", default=["smollm2-135m-instruct", "gemma-3-270m"])
    made.add_argument("--questions", type=int, default=40, help="of each subject or task")
    made.add_argument("--data", type=Path, default=cache_folder() / "tasks")
    asked = made.parse_args()
    quiet()
    place = subprocess.run([asked.python, "-c", TEMPLATES], capture_output=True, text=True, check=True)
    theirs, results = Path(place.stdout.split()[-1]), []
    print(
        "| model | task | questions | same choice | largest difference, nats | right: ours | lm-eval |\n"
        "|---|---|---|---|---|---|---|"
    )
    for model in asked.models:
        folder = checkpoint.locate(model, print)
        text, scorer = Text(folder), Scorer(folder, dtype_of(load_config(folder), "float32"))
        with tempfile.TemporaryDirectory() as where:
            scratch, ours = Path(where), dict[str, list[TaskQuestion]]()
            for shots in (0, 5):
                for subject in SUBJECTS:
                    name = f"ours_mmlu_{subject}_{shots}"
                    mmlu_task(name, subject, shots, asked.data, scratch, asked.questions, theirs)
                    file = scratch / f"{name}_ours.jsonl"
                    ours[name] = questions(f"mmlu:{file}", shots, asked.data / "mmlu_dev.jsonl")
            for task in BIGBENCH:
                name = f"ours_{task}"
                ours[name] = questions(f"bigbench:{asked.data / task / 'task.json'}", limit=asked.questions)
                bigbench_task(name, ours[name], scratch, theirs)
            said = theirs_said(asked.python, folder, list(ours), scratch)
        for name, its in ours.items():
            mine = [
                dict(scorer.choices_nats(encoded(text, question), [study_file.WHOLE]))[study_file.WHOLE]
                for question in its
            ]
            other = [said[name][number] for number in range(len(its))]
            same = sum(int(np.argmin(a) == np.argmin(b)) for a, b in zip(mine, other, strict=True))
            apart = max(float(np.abs(np.subtract(a, b)).max()) for a, b in zip(mine, other, strict=True))
            right = [
                sum(int(np.argmin(nats) == question.answer) for nats, question in zip(told, its, strict=True))
                for told in (mine, other)
            ]
            results.append(
                {
                    "model": model,
                    "task": name,
                    "questions": len(its),
                    "same": same,
                    "apart": apart,
                    "right": right,
                }
            )
            print(
                f"| {model} | {name.removeprefix('ours_')} | {len(its)} | {same} | {apart:.1e} | {right[0]} "
                f"| {right[1]} |",
                flush=True,
            )
    print(json.dumps(results))


if __name__ == "__main__":
    sys.exit(main())
