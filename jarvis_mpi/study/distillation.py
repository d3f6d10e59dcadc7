"""Distil a whole model into a copy with fewer layers: see fit_draft.py."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from ..model.family import context_of, cut_config, decoder_layers, load_config, of_block
from ..model.head import logits
from ..model.tokenizer import Text

AT_ONCE = 128  # answers that are generated side by side
BATCH_TOKENS = 2048  # of a training step, padding included
ROWS = 512  # logits at a time
WARM_STEPS = 20  # in which the learning rate rises
LONGEST_GRADIENT = 1.0

Tick = Callable[[int], None]


class Lesson(NamedTuple):
    """A question and its answer."""

    ids: list[int]
    begin: int  # of the answer


@torch.no_grad()
def answers(model: Any, text: Text, questions: Sequence[str], tokens: int, tick: Tick) -> list[Lesson]:
    """Generate greedy answers, as a run does: questions of about one length side by side.
    Return them in the questions' order."""
    asked = [text.ids_of(question) for question in questions]
    found: dict[int, Lesson] = {}
    order = sorted(range(len(asked)), key=lambda at: len(asked[at]))
    for first in range(0, len(order), AT_ONCE):
        some = order[first : first + AT_ONCE]
        width = max(len(asked[at]) for at in some)
        ids = torch.tensor([[0] * (width - len(asked[at])) + asked[at] for at in some])
        attention_mask = torch.tensor([[0] * (width - len(asked[at])) + [1] * len(asked[at]) for at in some])
        room = context_of(model.config) - width
        generated = model.generate(
            input_ids=ids, attention_mask=attention_mask, max_new_tokens=min(tokens, room), do_sample=False,
            pad_token_id=0,
            eos_token_id=sorted(text.end_ids), repetition_penalty=1.0,
        )[:, width:].tolist()  # fmt: skip
        for at, answer in zip(some, generated, strict=True):
            end = next((end for end, token in enumerate(answer, 1) if token in text.end_ids), len(answer))
            found[at] = Lesson([*asked[at], *answer[:end]], len(asked[at]))
        tick(len(some))
    return [found[at] for at in range(len(asked))]


def some_layers(model: Any, folder: Path, taken: Sequence[int]) -> Any:
    """Return a copy of the model that has only the layers `taken`."""
    made = AutoModelForCausalLM.from_config(
        cut_config(load_config(folder), taken), dtype=torch.float32
    ).eval()
    rename = of_block(decoder_layers(model)[0], taken)
    state = {new: tensor for name, tensor in model.state_dict().items() if (new := rename(name))}
    made.load_state_dict(state)
    made.tie_weights()
    made.generation_config = model.generation_config
    return made


def batches(lessons: Sequence[Lesson], most: int) -> Iterator[list[Lesson]]:
    """Yield batches of lessons of about one length, so that little is padding."""
    batch: list[Lesson] = []
    for lesson in sorted(lessons, key=lambda each: len(each.ids)):
        if batch and (len(batch) + 1) * len(lesson.ids) > most:
            yield batch
            batch = []
        batch.append(lesson)
    yield batch


class TrainingBatch(NamedTuple):
    ids: Tensor  # [L, S], padded at the end, where no row attends
    is_answer: Tensor  # [L, S] whether the next token is the answer's


def together(lessons: Sequence[Lesson]) -> TrainingBatch:
    width = max(len(lesson.ids) for lesson in lessons)
    ids, is_answer = (
        torch.zeros(len(lessons), width, dtype=torch.long),
        torch.zeros(len(lessons), width, dtype=torch.bool),
    )
    for at, lesson in enumerate(lessons):
        ids[at, : len(lesson.ids)] = torch.tensor(lesson.ids)
        is_answer[at, lesson.begin - 1 : len(lesson.ids) - 1] = True
    return TrainingBatch(ids, is_answer)


def states(model: Any, batch: TrainingBatch) -> Tensor:
    """Return the states before the output layer, [N, D], where the next token is the answer's."""
    return model.base_model(input_ids=batch.ids, use_cache=False).last_hidden_state[batch.is_answer]


@torch.no_grad()
def right(pupil: Any, lessons: Sequence[Lesson]) -> float:
    """Return the share of the answers' tokens that are the pupil's likeliest."""
    found = total = 0
    for lesson_batch in batches(lessons, BATCH_TOKENS):
        batch = together(lesson_batch)
        wanted = batch.ids[:, 1:][batch.is_answer[:, :-1]]
        for rows, tokens in zip(states(pupil, batch).split(ROWS), wanted.split(ROWS), strict=True):
            found += int((logits(pupil, rows).argmax(-1) == tokens).sum())
        total += len(wanted)
    return found / total


def learn(
    pupil: Any, teacher: Any, lessons: Sequence[Lesson], passes: int, rate: float, tick: Tick,
    each: Callable[[int], None]
) -> None:  # fmt: skip
    """Train the layers and the last norm with Adam; the embedding stays the teacher's.
    `each` is called after every pass."""
    pupil.requires_grad_(True)
    for shared in (pupil.get_input_embeddings(), pupil.get_output_embeddings()):
        shared.requires_grad_(False)
    learned = [parameter for parameter in pupil.parameters() if parameter.requires_grad]
    adam = torch.optim.AdamW(learned, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
    work = [(len(part), together(part)) for part in batches(lessons, BATCH_TOKENS)]
    with torch.no_grad():
        finals = [states(teacher, batch).bfloat16() for _, batch in work]
    order = torch.Generator().manual_seed(0)
    steps, step = passes * len(work), 0
    for number in range(1, passes + 1):
        for at in torch.randperm(len(work), generator=order).tolist():
            step += 1
            for group in adam.param_groups:
                group["lr"] = rate * min(1, step / WARM_STEPS) * (1 - (step - 1) / steps)
            count, batch = work[at]
            adam.zero_grad()
            ours = states(pupil, batch)
            ours.backward(gradient(pupil, teacher, ours.detach(), finals[at].float()))
            nn.utils.clip_grad_norm_(learned, LONGEST_GRADIENT)
            adam.step()
            tick(count)
        each(number)


def gradient(pupil: Any, teacher: Any, ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the gradient of the mean Kullback-Leibler divergence of the next token's probabilities; some
    rows at a time, to spare memory."""
    parts = []
    for rows, wanted in zip(ours.split(ROWS), theirs.split(ROWS), strict=True):
        rows = rows.clone().requires_grad_()
        with torch.no_grad():
            aim = torch.log_softmax(logits(teacher, wanted), -1)
        loss = nn.functional.kl_div(
            torch.log_softmax(logits(pupil, rows), -1), aim, log_target=True, reduction="sum"
        )
        parts.append(torch.autograd.grad(loss / len(ours), rows)[0])
    return torch.cat(parts)
