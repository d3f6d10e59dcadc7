"""Collects a run's attributes for its record (see docs/records.md)."""

import os
import sys
import time
from collections.abc import Mapping
from itertools import combinations
from typing import Any

from ..common import process_identity
from ..common.layers import END_USER, layers
from ..protocol.cluster import Cluster
from ..protocol.notes import Ready
from ..record.links_file import Links
from . import resume
from .startup import Start


def run_attributes(
    start: Start, cluster: Cluster, start_s: Mapping[str, float], loaded: Mapping[int, Ready]
) -> dict[str, Any]:
    """Return the attributes. `start_s`: how long each part of the start took; `loaded`: each worker's
    Ready."""
    asked, model, layout, hosts = start.asked, start.model, start.layout, start.hosts
    policy = layout.policy
    return {
        "prompt": asked.settings.prompt or "",
        resume.PROMPT_OPTION: asked.prompt_option or "",
        "settings": asked.settings.as_dict(),
        "versions": {"python": sys.version.split()[0], **layout.hellos[END_USER].versions},
        "hosts": hosts,
        "placement": {node: [layers(block) for block in held] for node, held in layout.placement.items()},
        "copies": {layers(block): nodes for block, nodes in layout.copies.items()},
        "standby": layout.standby,
        "policy": {
            "ladder": policy.ladder,
            "max_skipped": policy.max_skipped,
            "never_skip": sorted(policy.never_skip),
            "copied": None if policy.copied is None else [layers(block) for block in policy.copied],
        },
        "patches": [layers(hole) for hole in cluster.patches],
        "patchers": sorted(cluster.patchers),
        "room": cluster.room,
        "model": str(model.folder),
        "fingerprint": start.files.fingerprint,
        "dtype": model.dtype_name,
        "depth": model.depth,
        "links": links_between(hosts, asked.link_rates),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "start": start_s,
        "loaded_s": {node: ready.loaded_s for node, ready in loaded.items()},
        "writer": process_identity.named(os.getpid()),
    }


def links_between(hosts: Mapping[int, str], rates: Links) -> list[tuple[Any, ...]]:
    """List, for each two nodes whose hosts' link was measured: both nodes, the round trip in s, kbit/s."""
    return [
        (a, b, *rates[pair])
        for a, b in combinations(hosts, 2)
        if (pair := frozenset((hosts[a], hosts[b]))) in rates
    ]
