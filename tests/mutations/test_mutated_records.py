"""Damaged and hostile records: they are read, or give one sentence."""

import contextlib
import io
import json
import random
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from mutate import as_json, damaged, numbers, sentence_or, survives, swapped
from places import ROOT

from jarvis_mpi.app import resume
from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.settings import Settings
from jarvis_mpi.record import hdf5, replay
from jarvis_mpi.record.reader import load
from jarvis_mpi.record.repair import mend
from jarvis_mpi.record.run import Run

pytestmark = pytest.mark.slow

RECORDS = sorted((ROOT / "tests" / "records").glob("schema*.h5"))


@pytest.fixture(autouse=True)
def _beside_the_tests(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "analysis"))


def use(run: Run) -> None:
    """Read of a record what figures and --resume read."""
    _ = run.ended, run.length_s, run.follows, run.faults, run.on_one_clock(run.hops), run.resumed_steps
    _ = [question.tokens for question in run.questions]
    for name in ("settings", "hosts", "placement", "writer"):
        with contextlib.suppress(Unservable):
            getattr(run, name)
    with contextlib.suppress(Unservable):
        resume.settings_of(run, [])
        resume.unlike(run)
        with contextlib.redirect_stdout(io.StringIO()):
            resume.print_again(run, Settings(), [], sys.stdout)


def read_record(path: Path) -> None:
    use(load(path))
    sys.argv = ["replay", str(path)]
    with contextlib.redirect_stdout(io.StringIO()):
        assert "\n" not in (replay.main() or "")
    use(mend(path))


def record(folder: Path, name: str = "run.h5") -> Path:
    """Write a record of this schema: an answer, a fault, another start."""
    from jarvis_mpi.protocol.cluster import Hop
    from jarvis_mpi.protocol.events import Token
    from jarvis_mpi.protocol.node_state import Sign
    from jarvis_mpi.protocol.wire import Kind, Message, StageRun
    from jarvis_mpi.record.writer import Record

    with h5py.File(RECORDS[-1]) as old:
        attributes = {
            key: value
            for key, value in hdf5.attributes(old).items()
            if key not in ("schema", "clock_at_begin_s")
        }
    path = folder / name
    for start in range(2):
        if start == 0:
            made = Record(path, attributes, 100.0, None)
        else:
            again = {
                key: json.loads(value) if value[:1] in "{[" else value
                for key, value in attributes.items()
                if isinstance(value, str)
            }
            made = Record.resumed(path, again, 200.0, None, 60.0, 5)
        made.asked(101.0, 5 * start, 0, "why", [1, 2], 0)
        made.refused(101.0, 5 * start, 3, "line 3 is no object")
        made.route(101.0, 5 * start, 0, [Hop(0, range(1)), Hop(1, range(1, 3))])
        for step in range(5 * start, 5 * start + 5):
            now = made.begun_at + 10 + step
            made.offset(now, 1, 50.0, 1e-4)
            runs = (
                StageRun(0, range(1), 1, 0, 0.1, 0, 0, now),
                StageRun(1, range(1, 3), 1, 0, 0.1, 0, 9, now + 50),
            )
            message = Message(Kind.STEP, step=step, start=step, rows=1, runs=runs)
            made.write(Token(0, step, step, 42, now + 0.5, 0.5, 0.1, (message,)))
        made.sign(made.begun_at + 12, 5 * start + 3, 2, Sign.LOST)
        made.answered(made.begun_at + 20, 5 * start + 5, 0, "length", "because")
        made.ended(made.begun_at + 21, 5 * start + 5, "", True, {0: 1})
        made.close()
    return path


def test_every_event_of_a_record_is_replayed(tmp_path):
    lines = list(replay.replayed(record(tmp_path)))
    assert len(lines) == len(load(tmp_path / "run.h5").events)
    assert sum(line.endswith("line 3 refused: line 3 is no object") for line in lines) == 2


def test_damaged_records_are_read_or_one_sentence(tmp_path):
    files = [path.read_bytes() for path in (*RECORDS, record(tmp_path))]
    with h5py.File(tmp_path / "packed.h5", "w") as packed, h5py.File(tmp_path / "run.h5") as plain:
        packed.attrs.update(plain.attrs)
        for name in plain:
            packed.create_dataset(name, data=plain[name][:], compression="gzip", shuffle=True, chunks=True)
    files.append((tmp_path / "packed.h5").read_bytes())

    def one(number: int) -> None:
        draw = random.Random(number)
        path = tmp_path / "bad.h5"
        path.write_bytes(damaged(draw, draw.choice(files)))
        sentence_or(lambda: read_record(path))

    survives(numbers(), one)


def test_records_whose_json_is_another_are_read_or_one_sentence(tmp_path):
    good = record(tmp_path)

    def one(number: int) -> None:
        draw = random.Random(number)
        path = tmp_path / "bad.h5"
        shutil.copy(good, path)
        with h5py.File(path, "r+") as file:
            if draw.random() < 0.5:
                name = draw.choice(list(file.attrs))
                value = file.attrs[name]
                content = json.loads(value) if isinstance(value, str) and value[:1] in "{[" else value
                file.attrs[name] = as_json(swapped(draw, content)).decode().replace("\\u0000", "")
            else:
                events = file["events"][:]
                which = draw.randrange(len(events))
                text = bytes(file["text"][:])[events[which]["text_at"] :][: events[which]["text_bytes"]]
                new = as_json(swapped(draw, json.loads(text or b"[]")))
                events[which]["text_at"], events[which]["text_bytes"] = len(file["text"]), len(new)
                if draw.random() < 0.1:
                    events[which]["event"] = draw.choice(
                        (b"asked", b"route", b"XXX", b"\xff", b"done", b"answered")
                    )
                file["events"][:] = events
                file["text"].resize((len(file["text"]) + len(new),))
                file["text"][-len(new) :] = np.frombuffer(new, "u1")
        sentence_or(lambda: read_record(path))

    survives(numbers(), one)


# -- hostile files


def made_hostile(folder: Path) -> dict[str, tuple[Callable[[h5py.File], object], str]]:
    """Return each name -> a change to `tokens` of a good record, and the expected sentence."""
    secret = folder / "secret"
    secret.write_bytes(b"secret" * 4096)
    with h5py.File(folder / "other.h5", "w") as other, h5py.File(RECORDS[-1]) as good:
        other["tokens"] = good["tokens"][:]
    kind = h5py.File(RECORDS[-1])["tokens"].dtype

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((8,), kind)
        layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "tokens", (8,))
        file.create_virtual_dataset("tokens", layout)

    def of_short_chunks(file: h5py.File) -> None:
        packed = file.create_dataset(
            "tokens", (1000,), kind, chunks=(1000,), compression="gzip", shuffle=True
        )
        packed.id.write_direct_chunk((0,), zlib.compress(b"x" * 99))

    def of_odd_numbers(file: h5py.File) -> None:
        odd = h5py.h5t.IEEE_F64LE.copy()
        odd.set_ebias(7)
        whole = h5py.h5t.py_create(kind)
        made = h5py.h5t.create(h5py.h5t.COMPOUND, whole.get_size())
        for number in range(whole.get_nmembers()):
            name, at = whole.get_member_name(number), whole.get_member_offset(number)
            made.insert(name, at, odd if name == b"at_s" else whole.get_member_type(number))
        h5py.h5d.create(file.id, b"tokens", made, h5py.h5s.create_simple((8,)))

    return {
        "short chunks": (of_short_chunks, "does not unpack to its rows"),
        "odd numbers": (of_odd_numbers, "no such table"),
        "packed otherwise": (lambda file: file.create_dataset("tokens", (8,), kind, compression="lzf"),
                             "is packed in a way that is not read here"),
        "external link": (
            lambda file: file.__setitem__("tokens", h5py.ExternalLink(str(folder / "other.h5"), "tokens")),
            "points elsewhere",
        ),
        "soft link": (lambda file: file.__setitem__("tokens", h5py.SoftLink("/hops")), "points elsewhere"),
        "dangling link": (lambda file: file.__setitem__("tokens", h5py.SoftLink("/none")),
                          "points elsewhere"),
        "external storage": (
            lambda file: file.create_dataset("tokens", (8,), kind, external=[(str(secret), 0, 4096)]),
            "lies in another file",
        ),
        "virtual": (virtual, "lies in another file"),
        "group": (lambda file: file.create_group("tokens"), "is no table"),
        "huge": (lambda file: file.create_dataset("tokens", (1 << 40,), kind, chunks=(1 << 10,)),
                 "claims 1099511627776 rows"),
        "huge and packed": (lambda file: file.create_dataset("tokens", (1 << 30,), kind, chunks=(1 << 10,),
                                                             compression="gzip"), "claims 1073741824 rows"),
        "huge chunk": (lambda file: file.create_dataset("tokens", (8,), kind, maxshape=(None,),
                                                        chunks=(1 << 24,)), "claims 16777216 rows"),
        "scalar": (lambda file: file.create_dataset("tokens", (), kind), "no such table"),
        "empty": (lambda file: file.create_dataset("tokens", dtype=kind, data=h5py.Empty(kind)), "claims"),
        "texts": (lambda file: file.create_dataset("tokens", data=["x"] * 8), "no such table"),
        "two dimensions": (lambda file: file.create_dataset("tokens", (2, 4), kind), "is damaged"),
        "other types": (lambda file: file.create_dataset("tokens", (8,), [("step", "S8")]), "no such table"),
        "gone": (lambda file: None, "has no tokens"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "short chunks",
        "odd numbers",
        "packed otherwise",
        "external link",
        "soft link",
        "dangling link",
        "external storage",
        "virtual",
        "group",
        "huge",
        "huge and packed",
        "huge chunk",
        "scalar",
        "empty",
        "texts",
        "two dimensions",
        "other types",
        "gone",
    ],
)
def test_hostile_records_are_one_sentence(name, tmp_path):
    damage, reason = made_hostile(tmp_path)[name]
    path = tmp_path / "bad.h5"
    shutil.copy(RECORDS[-1], path)
    with h5py.File(path, "r+") as file:
        del file["tokens"]
        damage(file)
    with pytest.raises(Unservable, match=reason) as error:
        load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("settings", "[" * 100_000, "damaged"),
        ("settings", "3", "settings"),
        ("hosts", '{"x": "a"}', "no number"),
        ("hosts", '["a"]', "hosts"),
        ("writer", '{"machine": "m", "space": "s", "pid": 99999999999999999999, "begun": "1"}', "process"),
        ("writer", '{"pid": 1}', "has no machine"),
        ("model", np.zeros(4), "no text and no number"),
        ("started_unix_s", float("nan"), "a time that is no number"),
        ("schema", "six", "no record of a run"),
        ("schema", -1, "no record of a run"),
        ("prompt", b"\xff\xfe", "is damaged"),
        ("depth", h5py.Empty("f8"), "is damaged"),
    ],
)
def test_hostile_attributes_are_one_sentence(name, value, reason, tmp_path):
    path = tmp_path / "bad.h5"
    shutil.copy(RECORDS[-1], path)
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        file.attrs[name] = value
    with pytest.raises(Unservable, match=reason) as error:
        load(path)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 1000


def test_a_file_is_written_by_one_at_a_time_and_read_meanwhile(tmp_path):
    path = tmp_path / "file.h5"
    with hdf5.made(path) as file:
        file["x"] = [1, 2, 3]
        with pytest.raises(hdf5.InUse, match="has it open: end that, or wait"):
            hdf5.changed(path)
    with hdf5.changed(path) as file:
        with pytest.raises(hdf5.InUse):
            hdf5.changed(path)
        hdf5.shared(file)
    with hdf5.changed(path), hdf5.read(path):
        pass
