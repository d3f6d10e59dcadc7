"""What the records of a run say of its answers, where a standby may have gone on with it."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

TOLD = 12
BEGUN_S = 10.0  # for a record to be there, once all is ready


@dataclass(frozen=True)
class Written:
    """What a record has, of a run that goes on, has ended, or was killed."""

    texts: list[str]  # the answers that have ended, by their sequences
    tokens: dict[int, list[int]]  # sequence -> ids, in the order written
    is_contiguous: bool  # no position of a sequence is missing, and none is there twice
    is_done: bool
    done_at: float  # of its last event, on the clock that all processes of a machine share
    next_at: float  # of the first token that the standby made; 0.0: there is none
    told: tuple[str, ...]  # its last events


def standby_of(path: Path) -> int:
    """Return the standby that a record names as soon as it is there."""
    end = time.monotonic() + BEGUN_S
    while True:
        try:
            with h5py.File(path, swmr=True, locking=False) as record:
                return int(record.attrs["standby"])
        except (OSError, KeyError):
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def tokens_in(path: Path) -> int:
    """Return how many tokens a record has so far."""
    try:
        with h5py.File(path, swmr=True, locking=False) as record:
            return int((record["tokens"]["at_s"] > 0).sum())
    except (OSError, KeyError):
        return 0


def written(path: Path) -> Written:
    with h5py.File(path, swmr=True, locking=False) as record:  # its writer may have been killed
        begun, tokens, events = record.attrs["clock_at_begin_s"], record["tokens"][:], record["events"][:]
        text = record["text"][:].tobytes()
    tokens, events = tokens[tokens["at_s"] > 0], events[events["event"] != b""]
    answers = sorted(
        (each["sequence"], each["text"])
        for each in (
            json.loads(text[event["text_at"] : event["text_at"] + event["text_bytes"]])
            for event in events
            if event["event"] == b"answered"
        )
    )
    ids, contiguous = dict[int, list[int]](), True
    for sequence in sorted(set(tokens["sequence"].tolist())):
        mine = tokens[tokens["sequence"] == sequence]
        ids[sequence] = mine["token"].tolist()
        contiguous &= bool((mine["position"][1:] - mine["position"][:-1] == 1).all())
    made = tokens[tokens["total_s"] > 0] if (events["event"] == b"takeover").any() else tokens[:0]
    return Written(
        [each for _, each in answers], ids, contiguous, bool(len(events) and events["event"][-1] == b"done"),
        float(begun + events["at_s"][-1]) if len(events) else 0.0,
        float(begun + made["at_s"][0]) if len(made) else 0.0,
        tuple(told(event, text) for event in events[-TOLD:]),
    )  # fmt: skip


def told(event: np.void, text: bytes) -> str:
    words = text[event["text_at"] : event["text_at"] + event["text_bytes"]].decode()
    return f"{event['at_s']:.2f} s, step {event['step']}: {event['event'].decode()} {event['node']} {words}"


def records(log: Path) -> list[Path]:
    """The record of the end user, and those of the standbys."""
    return [path for path in log.parent.glob(f"{log.stem}*.h5") if path.stem.split("-")[0] == log.stem]


def lost_at_most(shown: str, expected: str) -> bool:
    """Whether what was shown is the text, or lacks one piece of it: nothing is there twice."""
    begin = next((n for n, (a, b) in enumerate(zip(shown, expected, strict=False)) if a != b), len(shown))
    return len(shown) <= len(expected) and expected.endswith(shown[begin:])
