"""Translate a GGUF file's rotary embedding to a config's rope_parameters, and check that the model rotates
so."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..common.errors import Unservable
from .gguf_header import Gguf, damaged

FREQUENCIES, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
TABLES = (FREQUENCIES, LONG, SHORT)  # tensors that are no weights
NEAR = 1e-4  # relative difference of float32 numbers that were computed in two ways
SCALING = "rope.scaling."
# Keys under it -> their names in rope_parameters; None: no part of the arithmetic.
YARN = {"yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow", "finetuned": None, "type": None,
        "factor": "factor",
        "original_context_length": "original_max_position_embeddings"}  # fmt: skip


class Rope:
    """A GGUF file's rotary embedding. `own`: the metadata of the file's architecture, without its name."""

    def __init__(self, file: Gguf, own: dict[str, Any], config):
        self.file, self.own, self.config = file, own, config
        self.base = own.get("rope.freq_base", 10000.0)
        self.scaling = {
            key.removeprefix(SCALING): value for key, value in own.items() if key.startswith(SCALING)
        }
        self.kind = self.scaling.get("type", "none")
        self.tables = {tensor.name: self.table(tensor) for tensor in file.tensors if tensor.name in TABLES}
        self.factors = np.ones(1)
        known = {"rope.freq_base", "rope.freq_base_swa", "rope.dimension_count", "rope.scale_linear"}
        for key, value in own.items():
            if key.startswith("rope.") and not key.startswith(SCALING) and key not in known and value:
                raise self.refused(key)

    def table(self, tensor) -> np.ndarray:
        if tensor.kind != 0 or len(tensor.shape) != 1:
            raise damaged(self.file.path, f"{tensor.name} is no list of float32 numbers")
        values = np.frombuffer(self.file.bytes_of(tensor.name), np.float32).astype(float)
        if not (np.isfinite(values) & (values > 0)).all():
            raise damaged(self.file.path, f"{tensor.name} has numbers that no frequency is divided by")
        return values

    def refused(self, key: str) -> Unservable:
        return Unservable(
            f"{self.file.path} has {key} = {str(self.own.get(key, '...'))[:60]}, "
            "which cannot be honoured here: take the model's"
            " safetensors, or another GGUF file of it"
        )

    def changes(self, head_dim: int | None) -> dict[str, Any]:
        """Return the changes to the config.
        Raises Unservable where a config cannot express the file's rotation."""
        has_none = getattr(self.config, "rope_parameters", None) is None
        if has_none:
            if self.tables or self.kind not in ("none", ""):
                raise self.refused(
                    f"{SCALING}type" if self.kind not in ("none", "") else next(iter(self.tables))
                )
            return {}
        width = (
            head_dim
            or getattr(self.config, "head_dim", None)
            or (self.config.hidden_size // self.config.num_attention_heads)
        )
        self.rotating = self.own.get("rope.dimension_count", width)
        if type(self.rotating) is not int or not 0 < self.rotating <= width or self.rotating % 2:
            raise self.refused("rope.dimension_count")
        parameters = self.parameters()
        if self.rotating != width:
            parameters["partial_rotary_factor"] = self.rotating / width
        had = self.config.rope_parameters
        if "full_attention" not in had:
            changes: dict[str, Any] = {"rope_parameters": {**parameters, "rope_theta": self.base}}
        else:  # layers with a window rotate as they did
            full = {**had["full_attention"], **parameters, "rope_theta": self.base}
            sliding = {**had["sliding_attention"], "rope_theta": self.own.get("rope.freq_base_swa", 10000.0)}
            changes = {"rope_parameters": {"full_attention": full, "sliding_attention": sliding}}
        if "partial_rotary_factor" in parameters:
            changes["partial_rotary_factor"] = parameters["partial_rotary_factor"]
        if "original_max_position_embeddings" in parameters and hasattr(
            self.config, "original_max_position_embeddings"
        ):
            changes["original_max_position_embeddings"] = parameters["original_max_position_embeddings"]
        return changes

    def parameters(self) -> dict[str, Any]:
        linear = self.own.get("rope.scale_linear", 1.0)
        if self.tables and (self.kind == "linear" or linear not in (0.0, 1.0)):
            raise self.refused(f"{SCALING}type")
        if LONG in self.tables or SHORT in self.tables:
            return self.longrope()
        if FREQUENCIES in self.tables:
            if self.kind not in ("none", ""):
                raise self.refused(f"{SCALING}type")
            return self.llama3(self.tables[FREQUENCIES])
        if self.kind == "yarn":
            for key, value in self.scaling.items():
                if (
                    key not in YARN
                    and not (key in ("attn_factor", "yarn_attn_factor") and value in (0.0, 1.0))
                    and value
                ):
                    raise self.refused(f"{SCALING}{key}")
            given = {name: self.scaling[key] for key, name in YARN.items() if name and key in self.scaling}
            return {"rope_type": "yarn", **given}
        if self.kind == "linear" or (self.kind in ("none", "") and linear not in (0.0, 1.0)):
            factor = self.scaling.get("factor", linear) or 1.0
            self.factors = np.array([float(factor)])
            return {"rope_type": "linear", "factor": float(factor)}
        if self.kind not in ("none", ""):
            raise self.refused(f"{SCALING}type")
        return {"rope_type": "default"}

    def longrope(self) -> dict[str, Any]:
        if (
            FREQUENCIES in self.tables
            or {LONG, SHORT} - self.tables.keys()
            or self.kind not in ("none", "", "longrope")
        ):
            raise self.refused(f"{SCALING}type")
        if any(len(self.tables[name]) != self.rotating // 2 for name in (LONG, SHORT)):
            raise damaged(self.file.path, f"{LONG} or {SHORT} has not {self.rotating // 2} numbers")
        original = self.scaling.get("original_context_length")
        if type(original) is not int or original <= 0:
            raise self.refused(f"{SCALING}original_context_length")
        parameters = {
            "rope_type": "longrope",
            "original_max_position_embeddings": original,
            "long_factor": self.tables[LONG].tolist(),
            "short_factor": self.tables[SHORT].tolist(),
        }
        if attention := self.scaling.get("attn_factor"):
            parameters["attention_factor"] = float(attention)
        return parameters

    def llama3(self, factors: np.ndarray) -> dict[str, Any]:
        """Return the scaling of Llama 3.1 to 3.3 that gives `factors`. Raises Unservable where none does."""
        self.factors = factors
        if len(factors) != self.rotating // 2:
            raise damaged(
                self.file.path, f"{FREQUENCIES} has {len(factors)} numbers, not {self.rotating // 2}"
            )
        if np.allclose(factors, factors[0], rtol=NEAR):
            plain = np.isclose(factors[0], 1.0, rtol=NEAR)
            return {"rope_type": "default"} if plain else {"rope_type": "linear", "factor": float(factors[0])}
        for most, low, high, original in self.fitting(factors):
            if np.allclose(llama3_factors(self.lengths(), most, low, high, original), factors, rtol=NEAR):
                return {"rope_type": "llama3", "factor": most, "low_freq_factor": low,
                        "high_freq_factor": high,
                        "original_max_position_embeddings": original}  # fmt: skip
        raise Unservable(
            f"{self.file.path} scales its rotation by {FREQUENCIES} as no known model does: take the "
            "model's safetensors"
        )

    def lengths(self) -> np.ndarray:
        """Return the wavelengths, in positions."""
        return 2 * np.pi * self.base ** (np.arange(0, self.rotating, 2) / self.rotating)

    def fitting(self, factors: np.ndarray) -> Iterator[tuple[float, float, float, int]]:
        """Yield parameters that may have made `factors`: the usual ones, then those that fit the partly
        scaled factors."""
        most = round(float(factors.max()), 4)
        stated = self.scaling.get("original_context_length")
        for original in ([stated] if type(stated) is int else []) + [2**power for power in range(8, 22)]:
            yield most, 1.0, 4.0, original
        between = (factors > 1 + NEAR) & (factors < most * (1 - NEAR))
        # smooth = (original / length - low) / (high - low): a line; its scale is free, so low is 1.
        if between.sum() > 1:
            smooth = (1 / factors[between] - 1 / most) / (1 - 1 / most)
            slope, intercept = np.polyfit(1 / self.lengths()[between], smooth, 1)
            if slope > 0 and intercept < 0:
                yield most, 1.0, round(1 - 1 / intercept, 4), round(-slope / intercept)

    def check(self, model) -> None:
        """Raises Unservable unless `model` rotates as the file says; yarn and longrope are left to
        transformers."""
        parameters = getattr(model.config, "rope_parameters", None)
        if not parameters:
            return
        nested = "full_attention" in parameters
        if (parameters["full_attention"] if nested else parameters).get("rope_type") in ("yarn", "longrope"):
            return
        exact = self.base ** -(np.arange(0, self.rotating, 2) / self.rotating) / self.factors
        name = "full_attention_inv_freq" if nested else "inv_freq"
        found = [buffer for full, buffer in model.named_buffers() if full.split(".")[-1] == name]
        for buffer in found:
            if buffer.shape != exact.shape or not np.allclose(
                buffer.float().numpy(), exact, rtol=NEAR, atol=0
            ):
                raise Unservable(
                    f"{self.file.path} says how positions rotate in a way that transformers' "
                    f"{model.config.model_type} has not: take the model's safetensors"
                )


def llama3_factors(lengths: np.ndarray, most: float, low: float, high: float, original: int) -> np.ndarray:
    smooth = np.clip((original / lengths - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / most + smooth)
