"""The real coordinator, workers and cluster over a network in memory, on a virtual clock: one seed, one
story.

Every node is a greenlet; a heap of (time, what) moves them on. A story's faults (who is killed, stopped,
stalled, cut off or slow, and which messages are late, doubled, lost or out of order) are drawn from its seed.
"""

from .rules import check, must_be_exact, reduced, tell, tell_all, tell_many, wrong_with
from .run import play
from .story import Fault, Story, draw, more_of

__all__ = [
    "Fault",
    "Story",
    "check",
    "draw",
    "more_of",
    "must_be_exact",
    "play",
    "reduced",
    "tell",
    "tell_all",
    "tell_many",
    "wrong_with",
]
