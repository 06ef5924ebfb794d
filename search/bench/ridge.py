"""A table's stand-in where a space is too large for one: a linear model of features of the sentence.

The features are those of HW-GPT-Bench's GPT-2 (`gpt2_elastic`), in the order that the file of references states: for
each width (192, 384, 768), zeros for the other widths, 77 numbers: [heads of layer 1…12 = 4], [= 8], [= 12], [MLP ratio
= 2], [= 3], [= 4] (12 each), [layers = 10, 11, 12], bias, 1; then for each width H, M, H², M², HM of the sums of heads
and ratios. Inactive layers count 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archrank.search.config import ConfigError

__all__ = ["Ridge"]

WIDTHS, LAYERS = (192, 384, 768), 12
_OWN = 6 * LAYERS + 5
COUNT = len(WIDTHS) * (_OWN + 5)
_WIDTH, _BLOCK = re.compile(r"embed\((\d+)\)"), re.compile(r"block\((\d+),(\d+)\)")


@dataclass(frozen=True)
class Ridge:
    """coefficients (objectives, features), intercepts (objectives,)."""

    coefficients: NDArray[np.float64]
    intercepts: NDArray[np.float64]

    @classmethod
    def from_json(cls, record: Mapping[str, Any], names: Sequence[str]) -> Ridge:
        """From `{"coefficients": {objective: […]}, "intercept": {objective: …}}`; ConfigError where they do not fit."""
        try:
            weights = np.array([record["coefficients"][name] for name in names], dtype=np.float64)
            shifts = np.array([record["intercept"][name] for name in names], dtype=np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"the surrogate of the references cannot be read: {error!r:.120}") from None
        if weights.shape != (len(names), COUNT):
            raise ConfigError(
                f"the surrogate of the references has {weights.shape[-1]} coefficients; the features here are {COUNT}"
            )
        return cls(weights, shifts)

    def __call__(self, text: str) -> list[float]:
        """The objectives of a sentence."""
        found: list[float] = (self.coefficients @ _features(text) + self.intercepts).tolist()
        return found


def _features(text: str) -> NDArray[np.float64]:
    joined = "".join(text.split())
    width = _WIDTH.search(joined)
    blocks = [(int(h), int(m)) for h, m in _BLOCK.findall(joined)]
    if width is None or int(width[1]) not in WIDTHS or not 10 <= len(blocks) <= LAYERS:
        raise ConfigError(f"the surrogate of the references knows sentences of gpt2_elastic, not {text[:60]!r}")
    place, none = WIDTHS.index(int(width[1])), [0] * (LAYERS - len(blocks))
    heads = np.array([h for h, _ in blocks] + none)
    ratios = np.array([m for _, m in blocks] + none)
    own = [*(heads == k for k in (4, 8, 12)), *(ratios == k for k in (2, 3, 4))]
    rest = [len(blocks) == n for n in (10, 11, 12)] + ["biased(" in joined, True]
    found = np.zeros(COUNT)
    found[place * _OWN : (place + 1) * _OWN] = np.concatenate([*own, rest])
    h, m = float(heads.sum()), float(ratios.sum())
    begin = len(WIDTHS) * _OWN + 5 * place
    found[begin : begin + 5] = h, m, h * h, m * m, h * m
    return found
