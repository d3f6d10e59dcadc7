"""Text: what comes before a text, and what a further question of a chat makes of it."""

import pytest
import texts
from tokenizers.processors import TemplateProcessing

from jarvis_mpi.model.askable import askable
from jarvis_mpi.model.tokenizer import Text, user
from jarvis_mpi.study.scorer import encoded
from jarvis_mpi.study.tasks import TaskQuestion

pytestmark = pytest.mark.slow

LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<s>[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' </s>' }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    "template", ["", LLAMA_2, "{% for m in messages %}\n\n### {{ m.content }}{% endfor %}\n\n### "]
)
def test_only_a_text_begins_with_the_space_that_a_tokenizer_puts_there(template, tmp_path):
    text = Text(texts.with_fallback(tmp_path))
    text.has_template = bool(template)
    text.tokenizer.chat_template = template or None
    ids = text.after([], "hello")
    text.add_turn("hello", "x x")
    ids += text.encode("x x")
    went_on = text.after(ids, "world")
    assert went_on[: len(ids)] == ids
    whole = text.asking([*text.turns, user("world")]) if template else "hellox x\nworld"
    assert text.tokenizer.convert_ids_to_tokens(went_on[len(ids) :]) == behind(text, whole, "x x")


def behind(text, whole, answer):
    """The tokens of `whole` behind `answer`."""
    tokens = text.tokenizer.tokenize(whole, add_special_tokens=False)
    here = len(text.tokenizer.tokenize(whole[: whole.rindex(answer) + len(answer)], add_special_tokens=False))
    return tokens[here:]


def test_a_question_that_is_shorter_than_the_one_before_it(tmp_path):
    text = Text(texts.of_bytes(tmp_path, "[{{ messages[-1].content }}]"))
    ids = askable(text, [], "a long question", 100)
    text.add_turn("a long question", "1")
    assert text.tokenizer.decode(askable(text, [*ids, 5, 6], "hi", 100)) == "[hi]"


REASONING = (
    "{% for m in messages %}<{{ m.role }}>"
    "{{ m.content.split('</think>')[-1] if m.role == 'assistant' else m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "answer", "whole"),
    [
        ("{% for m in messages %}[{{ m.content | title }}]{% endfor %}", "so so", "[One][So So][Two]"),
        (REASONING, "I muse.</think>So.", "<user>One<assistant>So.<user>Two<assistant>"),
        ("{% for m in messages if m.role == 'user' %}[{{ m.content }}]{% endfor %}", "so", "[One][Two]"),
    ],
)
def test_a_template_that_changes_what_was_said_is_rendered_whole(template, answer, whole, tmp_path):
    text = Text(texts.of_bytes(tmp_path, template))
    ids = [*askable(text, [], "One", 100), *text.encode(answer, begin=False)]
    text.add_turn("One", answer)
    assert text.decode(askable(text, ids, "Two", 100)) == whole


@pytest.mark.parametrize(
    ("template", "whole"),
    [
        ("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant><think>",
         "<user>One<assistant>so<user>Two<assistant><think>"),
        ("{% for m in messages %}[{{ m.content }}{{ ' /no_think' if loop.last }}]{% endfor %}",
         "[One][so][Two /no_think]"),
    ],
)  # fmt: skip
def test_what_a_template_writes_around_the_last_turn_alone_is_gone_from_an_earlier_one(
    template, whole, tmp_path
):
    text = Text(texts.of_bytes(tmp_path, template))
    ids = [*askable(text, [], "One", 100), *text.encode("so", begin=False)]
    text.add_turn("One", "so")
    assert text.decode(askable(text, ids, "Two", 100)) == whole


def test_an_empty_answer_that_a_template_leaves_out(tmp_path):
    template = "{% for m in messages if m.content %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    text = Text(texts.of_bytes(tmp_path, template))
    ids = askable(text, [], "One", 100)
    text.add_turn("One", "")
    assert text.decode(askable(text, ids, "Two", 100)) == "<user>One<user>Two<assistant>"


def test_a_template_of_reasoning_keeps_the_tokens_of_an_answer_without_any(tmp_path):
    text = Text(texts.of_bytes(tmp_path, REASONING))
    ids = [*askable(text, [], "One", 100), 7, 7]
    text.add_turn("One", " So. ")
    assert askable(text, ids, "Two", 100)[: len(ids)] == ids


@pytest.mark.parametrize(
    ("single", "begins"), [("$A", []), ("<s> $A", [1]), ("<s> $A </s>", [1]), ("$A </s>", [])]
)
def test_an_end_behind_a_text_is_no_beginning(single, begins, tmp_path):
    """As many fine-tunes of Llama 2 and Mistral save it (add_eos_token)."""
    text = Text(texts.with_fallback(tmp_path))
    text.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=single, pair="$A $B", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert text.beginning == begins
    assert text.windows([7, 8, 9], 2 + len(begins)) == [[*begins, 7, 8], [*begins, 9]]
    question = TaskQuestion("t", "s", "x", (" x", " world"), 0)
    scored = encoded(text, question)
    assert [ids[scored.context :] for ids in scored.ids] == [
        tuple(text.encode_behind(each)) for each in question.choices
    ]


def test_an_end_that_only_config_json_names_is_told(tmp_path):
    folder = texts.of_bytes(tmp_path)
    (folder / "config.json").write_text('{"eos_token_id": 2}')
    assert Text(folder).end_note == ""
    (folder / "generation_config.json").write_text('{"eos_token_id": null, "bos_token_id": 0}')
    assert Text(folder).end_ids == {2}
    assert "names no token that ends an answer: config.json's do" in Text(folder).end_note
