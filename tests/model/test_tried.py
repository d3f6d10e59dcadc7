"""Releases of torch and transformers that were not tried: one sentence, and the run continues."""

import importlib.metadata
import tomllib

import pytest
from places import ROOT

from jarvis_mpi.model.tried_releases import TRIED, untried

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize(
    ("torch", "sentence"),
    [
        ("2.10.0", "torch 2.10.0 is older"),
        ("2.9", "torch 2.9 is older"),
        ("2.11.0", ""),
        ("2.13.0+cpu", ""),
        ("2.14.1", ""),
        ("2.14.0rc1", ""),
        ("2.15.0.dev20261101", "torch 2.15.0.dev20261101 is newer"),
        ("2.99", "torch 2.99 is newer"),
        ("3", "torch 3 is newer"),
        ("10.0", "torch 10.0 is newer"),
    ],
)
def test_what_was_not_tried_is_reported(torch, sentence):
    sentences = untried({"torch": torch, "transformers": "5.23.0"}.get)
    assert [each.startswith(sentence) for each in sentences] == ([True] if sentence else [])
    assert all("(2.11 to 2.14): if an answer looks wrong, install one of those" in each for each in sentences)


def test_a_package_without_a_version_says_nothing():
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    assert untried(missing) == []


@pytest.mark.parametrize("name", TRIED)
def test_pip_requires_the_same(name):
    first, last = TRIED[name]
    *before, end = last.split(".")
    after = ".".join([*before, str(int(end) + 1)])
    assert f"{name}>={first},<{after}" in PROJECT["dependencies"]
