"""Damaged quantised files: a sentence, or, where only numbers changed, finite or not, no crash."""

import json
import random
import shutil

import pytest
import torch
from mutations import mutate

from jarvis_mpi.common import sealed_folder
from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.nn.linear import QuantisedLinear
from jarvis_mpi.nn.quantisation import FILES, quantised_folder

pytestmark = pytest.mark.slow

SHAPE = (96, 160)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("JARVIS_CACHE", str(tmp_path_factory.mktemp("cache")))
    torch.manual_seed(0)
    weight = torch.randn(SHAPE)
    made = {kind: quantised_folder(kind, "mutated", SHAPE, lambda: weight) for kind in ("int8", "int4")}
    x = torch.randn(1, 3, SHAPE[1])
    yield {kind: (folder, x, QuantisedLinear(kind, folder, SHAPE, None)(x)) for kind, folder in made.items()}
    patch.undo()


def test_files(folders, tmp_path):
    def one(number):
        draw = random.Random(number)
        kind = draw.choice(("int8", "int4"))
        good, x, exact = folders[kind]
        folder = tmp_path / str(number)
        shutil.copytree(good, folder)
        name = draw.choice((*FILES, *FILES, sealed_folder.SEAL))
        file, data = folder / name, (good / name).read_bytes()
        if name == sealed_folder.SEAL and draw.random() < 0.7:
            file.write_bytes(mutate.as_json(mutate.swapped(draw, json.loads(data))))
        else:
            file.write_bytes(mutate.damaged(draw, data, draw.choice((len(data), 128, 128))))
        if name != sealed_folder.SEAL and draw.random() < 0.5:  # the seal is renewed over the damage
            sealed_folder.seal(folder, FILES)
        damage = list(sealed_folder.damage(folder, lambda path: None))
        try:
            y = QuantisedLinear(kind, folder, SHAPE, None)(x)
        except Unservable as error:
            y, sentence = None, str(error)
            assert "\n" not in sentence
        if y is not None:
            assert y.shape == exact.shape
            if (folder / name).read_bytes() == data or (name == sealed_folder.SEAL and not damage):
                assert torch.equal(y, exact)
            elif (
                name != sealed_folder.SEAL
                and (folder / sealed_folder.SEAL).read_bytes() == (good / sealed_folder.SEAL).read_bytes()
            ):
                assert damage  # doctor --model finds it
        shutil.rmtree(folder)

    mutate.survives(mutate.numbers(), one)
