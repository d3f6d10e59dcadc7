"""Imports: what transformers finds in its own sources is looked for once; afterwards all is as it was."""

import gc
from pathlib import Path

import pytest
import transformers
from transformers.utils.import_utils import create_import_structure_from_path, spread_import_structure

from jarvis_mpi.light import kept, light_imports

FAMILIES = Path(transformers.__file__).parent / "models"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JARVIS_CACHE", str(tmp_path))
    return tmp_path / "transformers"


def look_through(sources, prefix=None):
    found = spread_import_structure(create_import_structure_from_path(sources))
    prefix = f"{prefix}." if prefix else ""
    return {needs: {f"{prefix}{name}": what for name, what in of.items()} for needs, of in found.items()}


def test_what_is_kept_is_what_was_found(folder):
    found = look_through(FAMILIES, "models")
    assert len(found) > 1
    assert kept(look_through)(FAMILIES, "models") == found
    again = kept(lambda *_: pytest.fail("looked through twice"))
    assert again(FAMILIES, "models") == found
    own = FAMILIES / "__init__.py"  # what the folder itself asks with, later
    assert kept(look_through)(own) == look_through(FAMILIES)
    assert again(own) == look_through(FAMILIES)


@pytest.mark.parametrize("left", ["", "[[", '{"a": 1}'])
def test_what_is_damaged_is_found_anew(folder, left):
    def once(sources, prefix):
        return {frozenset({"torch"}): {"models.a": {"A", "B"}}}

    kept(once)(FAMILIES, "models")
    (path,) = folder.iterdir()
    whole = path.read_text()
    path.write_text(left)
    assert kept(once)(FAMILIES, "models") == once(FAMILIES, "models")
    assert path.read_text() == whole


def test_a_folder_that_cannot_be_written_costs_time_only(folder):
    folder.write_text("a file in its place")
    assert kept(lambda *_: {})(FAMILIES, "models") == {}


def test_a_single_family_is_not_kept(folder):
    assert kept(lambda sources, _: {"said": sources})(__file__) == {"said": __file__}
    assert not folder.exists()


def test_what_is_garbage_later_is_collected_whatever_becomes_of_the_imports():
    with light_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), light_imports():
        raise ImportError
    assert gc.isenabled()
    gc.unfreeze()
