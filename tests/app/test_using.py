"""What a person uses: conversations, prompt files, lines that are typed, texts that end an answer."""

import os
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from loopback import Deaf, chain
from transformers import AutoModelForCausalLM, AutoTokenizer

from jarvis_mpi.app.keyboard import Key, Keyboard
from jarvis_mpi.app.stop_strings import Stops
from jarvis_mpi.common import prompt_file
from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.options import parse
from jarvis_mpi.common.settings import Settings
from jarvis_mpi.model.head import Head
from jarvis_mpi.model.stage import Stage
from jarvis_mpi.model.tokenizer import Text
from jarvis_mpi.protocol import placement as blocks

TURNS = ["abc", "Grüße 世界", "and?"]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


# -- one text that goes on


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.make("llama", tmp_path_factory.mktemp("llama"))


def greedy(folder: Path, ids: list[int], count: int) -> list[int]:
    """One process, no caches."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = list(ids)
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[-count:]


class Signs(Deaf):
    def __init__(self):
        self.signs = []

    def sign(self, at_s, step, node, sign):
        self.signs.append((node, sign))


def chained(folder: Path, left_out=frozenset(), observer=None):
    placement = blocks.place(tiny.LAYERS, 3, split="even", end_user_layers="first,last")
    placement = blocks.without(placement, left_out)
    stages = {
        node: {block: Stage(folder, block, torch.float32) for block in held}
        for node, held in placement.items()
    }
    choose = lambda logits, text, sequence: int(logits.argmax())  # noqa: E731
    return chain(Head(folder, torch.float32), stages, choose, observer=observer)


@pytest.mark.parametrize("broken_off", [False, True])
def test_a_text_goes_on_where_it_was_left_and_only_what_is_new_is_run(folder, broken_off):
    heard = Signs()
    with chained(folder, observer=heard) as coordinator:
        text = [5, 8, 13]
        for more in ([], [21, 34], [55, 1, 2, 3]):
            before, text = len(text) if more else 0, [*text, *more]
            expected, tokens = greedy(folder, text, 9), []
            for token in coordinator.generate(text, 20 if broken_off else 9, set()):
                tokens.append(token)
                if len(tokens) == 9:
                    break
            assert [token.id for token in tokens] == expected
            assert heard.signs == []
            run = sum(run.rows for piece in tokens[0].pieces for run in piece.runs if run.node == 1)
            # Of a text that came to its end the last token is not run yet; of one broken off it is on its
            # way.
            assert run == len(text) - before + (0 if broken_off or not before else 1)
            text += expected


def test_another_text_begins_with_empty_caches(folder):
    with chained(folder) as coordinator:
        for text in ([5, 8, 13], [7], [5, 8, 13, 2]):
            assert [token.id for token in coordinator.generate(text, 9, set())] == greedy(folder, text, 9)
            coordinator.start_sequence()
            assert not any(stage.journals for stage in coordinator.services.stages.values())


def test_layers_left_out_from_the_start_are_those_of_a_smaller_model(folder):
    left_out = blocks.counted_from_1("2,4,5", tiny.LAYERS)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.model.layers = torch.nn.ModuleList(
        layer for number, layer in enumerate(model.model.layers) if number not in left_out
    )
    ids = [5, 8, 13]
    with chained(folder, left_out) as coordinator, torch.inference_mode():
        tokens = [token.id for token in coordinator.generate(ids, 12, set())]
        for _ in range(12):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    assert tokens == ids[3:]


@pytest.mark.parametrize("words", ["0", "7", "five", "1,,x"])
def test_layers_to_be_left_out_count_from_1(words):
    with pytest.raises(Unservable, match="is not layers from 1 to 6, such as"):
        blocks.counted_from_1(words, 6)


def test_what_is_left_of_a_block_may_be_several():
    placement = {0: (range(0, 1), range(9, 10)), 1: (range(1, 6),), 2: (range(6, 9),)}
    assert blocks.without(placement, {0, 3, 6, 7, 8}) == {
        0: (range(9, 10),),
        1: (range(1, 3), range(4, 6)),
        2: (),
    }


# -- a conversation as tokens


@pytest.fixture
def talking(bytes_folder, tmp_path):
    """A tokenizer with a chat template whose turns end with the end token."""
    shutil.copytree(bytes_folder, tmp_path / "talking")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "talking")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "talking")
    return Text(tmp_path / "talking")


def test_a_chat_is_what_the_template_makes_of_it_and_earlier_turns_stay_as_they_are(talking):
    ids: list[int] = []
    messages = []
    for turn, answer in zip(TURNS, ["one", "two 世", "three"], strict=True):
        asked = talking.after(ids, turn)
        assert asked[: len(ids)] == ids
        talking.add_turn(turn, answer)
        messages += [{"role": "user", "content": turn}]
        rendered = talking.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert talking.tokenizer.decode(asked) == rendered
        messages += [{"role": "assistant", "content": answer}]
        ids = asked + talking.tokenizer(answer)["input_ids"]


def test_without_a_template_the_text_goes_on_in_a_new_line(bytes_folder):
    text = Text(bytes_folder)
    ids = text.after([], "once upon")
    assert text.tokenizer.decode(text.after(ids, "a time")) == "once upon\na time"


@pytest.mark.parametrize(
    ("stops", "pieces", "shown", "met"),
    [
        ([], ["a", "b"], "ab", False),
        (["\n\n"], ["one\n", "two", "\n", "\nthree"], "one\ntwo", True),
        (["END", "ND!"], ["xE", "N", "Q", "EN", "D!"], "xENQ", True),
        (["stop"], ["a st", "o"], "a ", False),
    ],
)
def test_an_answer_ends_before_a_text_that_stops_it(stops, pieces, shown, met):
    watching = Stops(stops)
    out = []
    for piece in pieces:
        out.append(watching.add(piece))
        if watching.met:
            break
    assert ("".join(out), watching.met) == (shown, met)
    if not met:
        assert "".join(out) + watching.held == "".join(pieces)


# -- prompt files


def test_a_file_of_lines_and_one_of_json(tmp_path):
    lines = tmp_path / "prompts.txt"
    lines.write_bytes(
        'one\n\n{"prompt": "two\\nlines"}\r\n\xff\n{"prompt": 3}\n{oops\n{"prompt": "\\ud83d"}'.encode(
            "latin-1"
        )
    )
    found = prompt_file.read(lines)
    assert [(each.number, each.prompt, each.wrong) for each in found] == [
        (1, "one", ""),
        (3, "two\nlines", ""),
        (4, "", "line 4 is not UTF-8 text: save the file as UTF-8"),
        (5, "", 'line 5 is no object with a text "prompt": write {"prompt": "..."}'),
        (6, "", 'line 6 is no JSON: write {"prompt": "..."}'),
        (7, "", "line 7 holds half a character, a lone \\ud800 to \\udfff: leave it out"),
    ]


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "cannot be read: No such file"), ("\n \n", "holds no prompt")]
)
def test_a_file_without_prompts_is_one_sentence(content, sentence, tmp_path):
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(Unservable, match=sentence):
        prompt_file.read(path)


# -- what is typed


def test_lines_are_taken_whole_and_what_is_no_text_is_recognised():
    board = Keyboard()
    for data in (b"on", b"e\ntwo\r\n", "世".encode()[:2], "世".encode()[2:] + b"\n", b"\xff\xfe\n", b"rest"):
        assert not board.take(data)
    assert board.rest == b"rest"
    assert [board.next(0.0) for _ in range(5)] == ["one", "two", "世", Key.UNREADABLE, None]


def test_an_interrupt_that_was_acted_on_leaves_the_lines_typed_before_it():
    board = Keyboard()
    board.is_terminal = True
    board.take(b"\nmore\n\x03")
    board.acted()
    assert [board.next(0.0) for _ in range(3)] == ["", "more", None]
    assert board.interrupts == 0


def test_on_a_terminal_ctrl_c_interrupts_and_ctrl_d_ends():
    board = Keyboard()
    board.is_terminal = True
    assert not board.take(b"half a line\x03")
    assert board.interrupts == 1
    assert board.next(0.0) is Key.INTERRUPT
    assert board.interrupts == 0
    board.take(b"x" * 4095 + b"\n")
    assert board.next(0.0) is Key.TOO_LONG
    assert board.take(b"\x04")


# -- the command line


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--prompt", " "], "there is no prompt"),
        (["--prompt", "a", "--prompts", "b"], "--prompt and --prompts b are both said"),
        (["--prompt", os.fsdecode(b"\xff")], "--prompt is not UTF-8 text"),
        (["--stop", os.fsdecode(b"\xff")], "--stop is not UTF-8 text"),
        (["--temperature", "-1"], "--temperature is -1.0, but must be at least 0"),
        (["--temperature", "nan"], "--temperature is nan, but must be at least 0"),
        (["--top-k", "-2"], "--top-k is -2, but must be at least 0"),
        (["--repetition-penalty", "0.001"], "--repetition-penalty is 0.001, but must be between"),
        (["--max-new-tokens", "0"], "--max-new-tokens is 0, but must be at least 1"),
        (["--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    ],
)
def test_a_wrong_word_is_one_sentence(words, sentence):
    with pytest.raises(Unservable, match=sentence):
        parse(words).checked()


def test_words_become_settings():
    made = parse(["--stop", "a", "--stop", "b\n"]).checked()
    assert (made.prompt, made.stop) == (None, ("a", "b\n"))
    assert parse([]) == Settings()
