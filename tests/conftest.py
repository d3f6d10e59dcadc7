"""Fixtures and markers of all tests."""

import functools
import json
import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks a hub

import pytest
import texts
import tiny
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from jarvis_mpi.model.family import quiet
from jarvis_mpi.testbed import own_hosts, own_slurm

PARAMETERS = "etc/prte-mca-params.conf"  # of mpirun's daemons

torch.set_num_threads(1)
quiet()


@functools.cache
def no_mpirun() -> str:
    return "" if shutil.which("mpirun") else "there is no mpirun on the PATH: make test"


@functools.cache
def no_hosts() -> str:
    if os.environ.get("JARVIS_TEST_HOSTS") != "1":
        return "JARVIS_TEST_HOSTS=1 is not set: these tests make network namespaces and start sshd in them"
    if not any("jarvis_mpi-daemon" in path.read_text() for path in Path(sys.prefix).glob(PARAMETERS)):
        return "mpirun does not know of daemons at home: python -m jarvis_mpi setup"
    return own_hosts.missing()


@functools.cache
def no_slurm() -> str:
    return no_hosts() or own_slurm.missing()


def not_so_long() -> str:
    asked = os.environ.get("JARVIS_TEST_SLOW") == "1"
    return "" if asked else "JARVIS_TEST_SLOW=1 is not set: it takes long, and others test its subject too"


# A test with the mark is skipped where its function gives a reason.
WHY_NOT = {"mpirun": no_mpirun, "hosts": no_hosts, "slurm": no_slurm, "very_slow": not_so_long}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    for mark, why in WHY_NOT.items():
        if item.get_closest_marker(mark) and (reason := why()):
            pytest.skip(reason)


@pytest.fixture(scope="session")
def bytes_folder(tmp_path_factory):
    """A tokenizer of single bytes: every character of several bytes comes in several tokens."""
    folder = tmp_path_factory.mktemp("bytes")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={letter: i for i, letter in enumerate(["<end>", *alphabet])}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 7}))
    return folder


@pytest.fixture(scope="session")
def small(bytes_folder, tmp_path_factory):
    """A tiny model with a tokenizer, for runs that take no time."""
    folder = tiny.make("llama", tmp_path_factory.mktemp("small"), vocab_size=300)
    for file in bytes_folder.glob("token*"):
        shutil.copy(file, folder)
    return folder


TEMPLATE = (
    "{% if messages | length > 1 and 'raise' in messages[-1].content %}{{ raise_exception('roles must "
    "alternate') }}{% endif %}{% if 'never' in messages[-1].content %}{{ raise_exception('not that') }}{% "
    "endif %}{% for m in messages %}[{{ m.content }}]{% endfor %}"
)


@pytest.fixture(scope="session")
def fussy_model(tmp_path_factory):
    """A tiny model whose chat template takes not every prompt."""
    folder = tiny.make("llama", tmp_path_factory.mktemp("model"), vocab_size=257)
    return texts.of_bytes(folder, TEMPLATE, words=["<new>"])
