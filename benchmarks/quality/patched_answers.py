"""What is said and what is known with blocks lost: graded answers, and questions with choices."""

import itertools
import statistics
from collections import Counter
from collections.abc import Sequence

from benchmarks.quality.patched_chain import Chain, deaths
from jarvis_mpi.common.layers import END_USER, Block, layers
from jarvis_mpi.model.tokenizer import Text
from jarvis_mpi.protocol.cluster import Hop
from jarvis_mpi.study import grading, tasks
from jarvis_mpi.study.scorer import encoded

ANSWER = 32  # tokens


def graded(chain: Chain, text: Text, prose_nats: float, prompts: Sequence[str], choices: int) -> list[dict]:
    rows = []

    def said_by(ids: list[int], hops: Sequence[Hop], how: str) -> tuple[list[int], float]:
        def through(body: bytes, start: int) -> bytes:
            for hop in hops:
                if hop.patch:
                    body = chain.puts[how](hop.block, body, start)
                else:
                    for layer in hop.block:
                        body = chain.scorer.layers[layer].run(body, start)
            return body

        said, cost = chain.scorer.answer(ids, through, ANSWER, text.end_ids)
        return said, float("nan") if cost is None else cost

    def answered(ids: list[int], hops: Sequence[Hop], how: str, whole: Sequence[int]) -> grading.StudyAnswer:
        said, cost = said_by(ids, hops, how)
        return grading.StudyAnswer(
            text.tokenizer.decode(said),
            len(said),
            cost,
            grading.repetition(said),
            grading.agreeing(said, whole or said),
        )

    for prompt in prompts:
        ids = text.ids_of(prompt)
        said, _ = said_by(ids, chain.hops((), "skip"), "skip")
        whole = answered(ids, chain.hops((), "skip"), "skip", said)
        known: dict[tuple, grading.StudyAnswer] = {}
        for count, dead in (
            (count, dead) for count, of in enumerate(deaths(chain, 4)) if count for dead in of[:choices]
        ):
            for copies, how in itertools.product((0, 1), ("patch", "skip")):
                hops = chain.hops(dead, how, copies)
                key = (tuple((hop.block, hop.patch) for hop in hops), how)
                if key not in known:
                    known[key] = answered(ids, hops, how, said)
                its = known[key]
                rows.append(
                    {"prompt": prompt, "dead": count, "nodes": list(dead), "how": f"{'copy, ' * copies}{how}",
                     "grade": str(grading.grade(its, whole, prose_nats)), "text": its.text}
                )  # fmt: skip
        print(f"graded: {prompt}", flush=True)
    return rows


def on_tasks(chain: Chain, text: Text, words: str, limit: int) -> list[dict]:
    scorer = chain.scorer
    owners = [node for node in chain.placement if node != END_USER and chain.placement[node]]
    right: Counter[tuple[str, str, str]] = Counter()
    count: Counter[str] = Counter()
    for question in tasks.questions(words, 0, None, limit):
        its = encoded(text, question)
        count[question.task] += 1
        shared = its.shared
        tails = [ids[shared:-1] for ids in its.ids]
        state = [scorer.head.embed(its.ids[0][:shared], 0)]
        state += [scorer.head.embed(tail, shared) if tail else b"" for tail in tails]
        before = [state]
        for layer in range(scorer.depth):
            before.append(scorer.run_choices(layer, before[-1]))

        def put(hole: Block, bodies: list[bytes], shared: int = shared) -> list[bytes]:
            first, *rest = bodies
            patched = chain.puts["patch"]
            return [patched(hole, first, 0), *(patched(hole, body, shared) if body else b"" for body in rest)]

        for hole, how in [("none", "skip"), *itertools.product(owners, ("skip", "patch"))]:
            hops = chain.hops([] if hole == "none" else [hole], how)
            first, *rest = chain.through(hops, how, before, scorer.run_choices, put)
            told = scorer.of_choices(its, first, rest)
            name = hole if hole == "none" else layers(chain.placement[hole][0])
            right[question.task, name, how] += min(range(len(told)), key=told.__getitem__) == question.answer
    rows = [
        {"task": task, "hole": hole, "how": how, "share": of / count[task]}
        for (task, hole, how), of in right.items()
    ]
    for task in count:
        shares = {
            how: [
                row["share"]
                for row in rows
                if row["task"] == task and row["how"] == how and row["hole"] != "none"
            ]
            for how in ("skip", "patch")
        }
        whole = next(row["share"] for row in rows if row["task"] == task and row["hole"] == "none")
        print(
            f"{task}: whole {whole:.0%}, mean over blocks: "
            f"{', '.join(f'{how} {statistics.mean(of):.0%}' for how, of in shares.items())}",
            flush=True,
        )
    return rows
