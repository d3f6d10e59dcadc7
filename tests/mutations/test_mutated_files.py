"""Studies, links, patches and hostfiles, damaged at random: each is read, or one sentence."""

import contextlib
import json
import random
from pathlib import Path

import pytest
from mutate import as_json, damaged, numbers, sentence_or, survives, swapped
from places import ROOT

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.model import patch
from jarvis_mpi.net import hostfile
from jarvis_mpi.record import links_file, study_file

pytestmark = pytest.mark.slow


def study(folder: Path) -> Path:
    path = folder / "study.h5"
    cases = [frozenset(), frozenset([1]), frozenset([1, 2])]
    items = [
        study_file.Item("text", "", 0, 0, -1, 10, 40),
        study_file.Item("mmlu", "x", 0, 0, 1, 5, 9),
        study_file.Item("mmlu", "x", 0, 1, 1, 5, 9),
    ]
    made = study_file.StudyFile(path, cases, items, ["why"], STUDY)
    for unit in made.left():
        if unit.kind == study_file.UnitKind.RANK:
            made.write(unit, {"block_influence": [0.1] * 4, "prose_nats": 3.0, "kl": [0.1, 0.2, 0.3, 0.4]})
        elif unit.kind == study_file.UnitKind.ANSWER:
            made.write(unit, {"text": "because", "ids": [1, 2, 3], "nats": 2.0})
        else:
            columns = 1 if unit.kind == study_file.UnitKind.TEXT else 2
            made.write(unit, [(case, [1.0 + len(case)] * columns) for case in cases])
    made.file.close()
    return path


STUDY = {"model": "m", "fingerprint": "f", "dtype": "float32", "depth": 4, "token_entropy": 5.0}


def test_damaged_studies_are_read_or_one_sentence(tmp_path, monkeypatch):
    good = study(tmp_path).read_bytes()
    monkeypatch.syspath_prepend(str(ROOT / "analysis"))
    import study as analysis

    def read(path: Path) -> None:
        results = analysis.read(path)
        # Scripts turn these into a sentence, in one place.
        with contextlib.suppress(Unservable, KeyError, ValueError):
            _ = results.tasks, results.graded, results.rankings, results.costs

    def one(number: int) -> None:
        draw = random.Random(number)
        path = tmp_path / "bad.h5"
        path.write_bytes(damaged(draw, good))
        sentence_or(lambda: study_file.costs_in(path, 4))
        sentence_or(lambda: read(path))
        items = [study_file.Item("text", "", 0, 0, -1, 10, 40)]
        sentence_or(lambda: study_file.StudyFile(path, [frozenset()], items, [], STUDY).file.close())

    assert study_file.costs_in(tmp_path / "study.h5", 4) == pytest.approx(
        {frozenset([1]): 0.1, frozenset([1, 2]): 0.2}
    )
    survives(numbers(), one)


def test_damaged_links_are_read_or_one_sentence(tmp_path):
    links = [(0, 1, 0.001, 1e5), (0, 2, float("nan"), float("nan"))]
    links_file.write(tmp_path / "good.h5", ["a", "b", "c"], {name: {"host": name} for name in "abc"}, links)
    good = (tmp_path / "good.h5").read_bytes()

    def one(number: int) -> None:
        draw = random.Random(number)
        (tmp_path / "bad.h5").write_bytes(damaged(draw, good))
        sentence_or(lambda: links_file.links_in(tmp_path / "bad.h5"))

    survives(numbers(), one)


def test_damaged_patches_are_read_or_one_sentence(tmp_path):
    import torch

    holes = [range(1, 2), range(2, 4)]
    made = [
        patch.Patch(torch.ones(8, 8), None, *torch.ones(3, 8)),
        patch.Patch(torch.ones(8, 2), torch.ones(2, 8), *torch.ones(3, 8)),
    ]
    costs = {hole: {"skipped": 0.9, "patched": 0.1, "how": "x"} for hole in holes}
    patch.write(tmp_path / "good", dict(zip(holes, made, strict=True)), patch.PatchInfo("f", "d", costs))
    good = (tmp_path / "good").read_bytes()
    size = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + size])

    def one(number: int) -> None:
        draw = random.Random(number)
        if draw.random() < 0.5:
            bad = damaged(draw, good)
        else:
            new = json.loads(as_json(header))
            content = json.loads(new["__metadata__"]["holes"])
            new["__metadata__"]["holes"] = as_json(swapped(draw, content)).decode()
            new = as_json(new if draw.random() < 0.7 else swapped(draw, new))
            bad = len(new).to_bytes(8, "little") + new + good[8 + size :]
        (tmp_path / "bad").write_bytes(bad)

        def read() -> None:
            info = patch.read(tmp_path / "bad")
            held = patch.Patches(tmp_path / "bad", torch.float32)
            held.prepare(info, [range(1), range(2)])
            for hole in info.patched:
                assert len(held.hold(hole)(torch.ones(3, len(held.hold(hole).mean)))) == 3
            _ = info.losses

        sentence_or(read)

    survives(numbers(), one)


def test_damaged_hostfiles_are_read_or_one_sentence(tmp_path):
    good = (
        b"# all\nlocalhost slots=3 max_slots=4 // x\nme@pi1.home slots = 2 username=you\n/* x\n */ fd98::12 "
        b"cpu=1\n127.0.0.2\n127.0.0.2\n"
    )

    def one(number: int) -> None:
        draw = random.Random(number)
        (tmp_path / "bad").write_bytes(damaged(draw, good))
        sentence_or(lambda: hostfile.ranks(tmp_path / "bad"))

    assert len(hostfile.ranks(tmp_path / "good" if (tmp_path / "good").write_bytes(good) else tmp_path)) == 8
    survives(numbers(), one)


def as_lists(data: bytes) -> bytes:
    """Turn all types of texts into lists of an unknown kind, by one bit each; HDF5 2.0 crashes when it reads
    them."""
    kind = bytes.fromhex("19010100100000001000000001000000")
    assert kind in data
    return data.replace(kind, b"\x19\x0b" + kind[2:])


@pytest.mark.parametrize("step", [0, 8])
def test_what_crashes_or_stops_hdf5_is_found_before(step, tmp_path):
    """A damaged type; and an object of no length in the heap of texts: HDF5 2.0 steps over it for ever."""
    good = study(tmp_path).read_bytes()
    heap = good.index(b"GCOL\x01\x00\x00\x00")
    bad = as_lists(good) if not step else good[: heap + 16] + bytes(16) + good[heap + 32 :]
    (tmp_path / "bad.h5").write_bytes(bad)

    def one(number: int) -> None:
        with pytest.raises(Unservable, match=r"bad\.h5"):
            study_file.costs_in(tmp_path / "bad.h5", 4)

    survives([0], one)
