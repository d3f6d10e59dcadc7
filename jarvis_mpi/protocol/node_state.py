"""A node's state, the signs of it, and the table of transitions."""

from enum import Enum


class State(Enum):
    UP = "up"
    STALLED = "stalled"  # shows life but no progress: a copy works for it, without one it is waited for
    SILENT = "silent"  # no sign of life, or no progress for too long: bypassed until it is back
    LOST = "lost"  # for good


class Sign(Enum):
    """What can be noticed of a node; the values are what people read."""

    BACK = "back"
    STALLED = "stalled"  # alive, but over its progress deadline
    SILENT = "silent"  # no sign of life
    STUCK = "stuck"  # stalled for too long
    LATE = "late for start"  # did not load its block in time
    GIVEN_UP = "given up"  # silent for too long
    GARBLED = "garbled"  # sends what cannot be read
    LOST = "lost"  # it is certain that the process is gone
    MISSING = "missing"  # a step did not reach it, and is sent again


GONE = (Sign.SILENT, Sign.STUCK, Sign.GARBLED, Sign.GIVEN_UP)  # of a standby that has to be dropped
# Any other sign changes nothing.
TRANSITIONS = {
    (State.UP, Sign.STALLED): State.STALLED,
    (State.UP, Sign.SILENT): State.SILENT,
    (State.UP, Sign.LATE): State.SILENT,
    (State.UP, Sign.GARBLED): State.LOST,
    (State.UP, Sign.LOST): State.LOST,
    (State.STALLED, Sign.BACK): State.UP,
    (State.STALLED, Sign.SILENT): State.SILENT,
    (State.STALLED, Sign.STUCK): State.SILENT,
    (State.STALLED, Sign.GARBLED): State.LOST,
    (State.STALLED, Sign.LOST): State.LOST,
    (State.SILENT, Sign.BACK): State.UP,
    (State.SILENT, Sign.GIVEN_UP): State.LOST,
    (State.SILENT, Sign.GARBLED): State.LOST,
    (State.SILENT, Sign.LOST): State.LOST,
}
