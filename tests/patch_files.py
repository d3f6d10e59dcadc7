"""Patch files of random numbers, for tests."""

from pathlib import Path

import torch

from jarvis_mpi.model import checkpoint, patch


def random_patches(width: int, holes: list[range], seed: int = 3) -> dict:
    dice = torch.Generator().manual_seed(seed)
    return {
        hole: patch.Patch(
            torch.randn(width, width, generator=dice) / width, None, *torch.randn(3, width, generator=dice)
        )
        for hole in holes
    }


def saved_patches(path: Path, folder: Path, patches: dict) -> Path:
    costs = {hole: {"skipped": 0.9, "patched": 0.12, "how": "by hand"} for hole in patches}
    patch.write(path, patches, patch.PatchInfo(checkpoint.fingerprint(folder), "d1", costs))
    return path
