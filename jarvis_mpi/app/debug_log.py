"""Writes what JARVIS_DEBUG names to standard error, one line an event: messages (net/logged_link.py) and the
protocol's events."""

import logging
import sys
from collections.abc import Iterable, Sequence

from ..common import variables
from ..common.layers import Block, layers
from ..protocol.cluster import Hop
from ..protocol.events import Change
from ..protocol.node_state import Sign

LOG = logging.getLogger("jarvis_mpi.protocol")
FORM = logging.Formatter("%(asctime)s.%(msecs)03d %(name)s: %(message)s", "%H:%M:%S")


def start(wings: Iterable[str]) -> None:
    """Send the loggers of `wings` to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FORM)
    for wing in wings:
        logger = logging.getLogger(f"jarvis_mpi.{wing}")
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        logger.addHandler(handler)


def observers() -> list["EventLog"]:
    """Return the observer that logs the protocol's events, if JARVIS_DEBUG names it."""
    return [EventLog()] if "protocol" in variables.debugged_wings() else []


class EventLog:
    """Logs the protocol's events. See events.RunObserver."""

    def sign(self, at_s: float, step: int, node: int, sign: Sign) -> None:
        LOG.debug("sign %s node=%d step=%d", sign.name, node, step)

    def route(self, at_s: float, step: int, epoch: int, route: Iterable[Hop]) -> None:
        LOG.debug("route %s step=%d epoch=%d", " > ".join(map(str, route)), step, epoch)

    def change(self, at_s: float, change: Change) -> None:
        LOG.debug("change %s", change)

    def copy(self, at_s: float, step: int, node: int, block: Block) -> None:
        LOG.debug("copy layers=%s node=%d step=%d", layers(block), node, step)

    def last_words(self, at_s: float, step: int, node: int, words: str) -> None:
        LOG.debug("last_words node=%d step=%d %s", node, step, (words.strip().splitlines() or [""])[-1])

    def shrunk(self, at_s: float, step: int, nodes: Sequence[int]) -> None:
        LOG.debug("shrunk nodes=%s step=%d", ",".join(map(str, nodes)), step)

    def stands_by(self, at_s: float, step: int, node: int) -> None:
        LOG.debug("standby node=%d step=%d", node, step)

    def offset(self, at_s: float, node: int, offset_s: float, uncertainty_s: float) -> None:
        LOG.debug("offset node=%d offset_s=%.6f uncertainty_s=%.6f", node, offset_s, uncertainty_s)
