"""Imports: transformers' own sources are searched once; afterwards everything is restored."""

import gc
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import transformers
from running import planted
from transformers.utils.import_utils import create_import_structure_from_path, spread_import_structure

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.model.light_imports import cached_structure, light_imports

pytestmark = pytest.mark.slow

FAMILIES = Path(transformers.__file__).parent / "models"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JARVIS_CACHE", str(tmp_path))
    return tmp_path / "transformers"


def look_through(sources, prefix=None):
    found = spread_import_structure(create_import_structure_from_path(sources))
    prefix = f"{prefix}." if prefix else ""
    return {needs: {f"{prefix}{name}": what for name, what in of.items()} for needs, of in found.items()}


def test_what_is_cached_is_what_was_found(folder):
    found = look_through(FAMILIES, "models")
    assert len(found) > 1
    assert cached_structure(look_through)(FAMILIES, "models") == found
    again = cached_structure(lambda *_: pytest.fail("looked through twice"))
    assert again(FAMILIES, "models") == found
    own = FAMILIES / "__init__.py"  # the argument of the folder's own later call
    assert cached_structure(look_through)(own) == look_through(FAMILIES)
    assert again(own) == look_through(FAMILIES)


@pytest.mark.parametrize("left", ["", "[[", '{"a": 1}'])
def test_what_is_damaged_is_found_again(folder, left):
    def once(sources, prefix):
        return {frozenset({"torch"}): {"models.a": {"A", "B"}}}

    cached_structure(once)(FAMILIES, "models")
    (path,) = folder.iterdir()
    whole = path.read_text()
    path.write_text(left)
    assert cached_structure(once)(FAMILIES, "models") == once(FAMILIES, "models")
    assert path.read_text() == whole


def test_a_folder_that_cannot_be_written_costs_time_only(folder):
    folder.write_text("a file in its place")
    assert cached_structure(lambda *_: {})(FAMILIES, "models") == {}


def test_a_single_family_is_not_cached(folder):
    assert cached_structure(lambda sources, _: {"sources": sources})(__file__) == {"sources": __file__}
    assert not folder.exists()


def test_what_is_garbage_later_is_collected_whatever_becomes_of_the_imports():
    with light_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(Unservable, match="cannot be imported: ImportError"), light_imports():
        raise ImportError
    assert gc.isenabled()
    gc.unfreeze()


NEIGHBOUR = """
import torch
import torch._dynamo.utils  # torchvision's does, in its registrations
import torch.distributed
assert torch.distributed.is_available(), "somebody says that torch has no distributed"
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex
with TransformGetItemToIndex():
    pass
torch.library.define("neighbour::twice", "(Tensor x) -> Tensor")
@torch.library.impl("neighbour::twice", "cpu")
def twice(x):
    return 2 * x
@torch.library.register_fake("neighbour::twice")
def _(x):
    return x.new_empty(x.shape)
@torch.compiler.disable
def marked(x):
    return x
assert marked is not marked.__dict__.get("_torchdynamo_orig_callable", marked)
"""
STARTS = """
import sys
from jarvis_mpi.model.light_imports import light_imports
with light_imports():
    {inside}
    from jarvis_mpi.model.family import import_family
    from jarvis_mpi.model.stage import Stage
    from transformers import LlamaConfig
    import_family(LlamaConfig())
"""


def starts(folder, inside="pass", afterwards="", path=()):
    """Run a process that imports as a rank does; return its output."""
    code = textwrap.dedent(STARTS).format(inside=inside) + textwrap.dedent(afterwards)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_rank_starts_without_torchs_compiler(tmp_path):
    loads = (
        "print([name for name in ('torch._dynamo', 'torch.distributed.tensor', "
        "'sympy') if name in sys.modules])"
    )
    assert starts(tmp_path, afterwards=loads) == "[]\n"


def test_a_neighbour_that_is_imported_meanwhile_gets_the_real_thing(tmp_path):
    """The neighbour is like a plugin of another package; torch is whole afterwards."""
    folder = planted(tmp_path, "neighbour", NEIGHBOUR)
    afterwards = """
    import torch
    one = torch.ones(3)
    print(torch.ops.neighbour.twice(one).tolist(), torch.distributed.is_available())
    more = torch.compile(lambda x: torch.ops.neighbour.twice(x) + 1, backend="eager", fullgraph=True)
    print(more(one).tolist())
    from transformers.masking_utils import TransformGetItemToIndex
    with TransformGetItemToIndex():
        print("masks")
    """
    printed = starts(tmp_path, "import neighbour", afterwards, [folder])
    assert printed == "[2.0, 2.0, 2.0] True\n[3.0, 3.0, 3.0]\nmasks\n"


def test_torch_compiles_afterwards(tmp_path):
    afterwards = """
    import builtins, torch
    assert torch.distributed.is_available() and not hasattr(builtins.__import__, "__wrapped__")
    assert type(builtins.__import__).__name__ == "builtin_function_or_method"
    marked = torch.compiler.disable(lambda x: x)
    print(torch.compile(lambda x: x + 1, backend="eager", fullgraph=True)(torch.ones(2)).tolist())
    print(torch._dynamo.optimize("eager")(lambda x: x + 2)(torch.ones(1)).tolist())
    """
    assert starts(tmp_path, afterwards=afterwards) == "[2.0, 2.0]\n[3.0]\n"


@pytest.mark.parametrize(
    "name",
    ["torchvision", "peft"]
    + [
        pytest.param(name, marks=pytest.mark.very_slow)
        for name in ("PIL", "torchaudio", "kernels", "flash_attn", "scipy")
    ],
)
def test_a_neighbour_that_cannot_be_imported_is_left_alone(name, tmp_path):
    """One example is torchvision for CUDA beside a torch for the CPU."""
    folder = planted(tmp_path, name, "raise RuntimeError('operator torchvision::nms does not exist')")
    starts(tmp_path, path=[folder])
