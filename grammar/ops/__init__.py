"""Closed-form costs, one op a file: the file's name is the op's alias in a space file."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from archrank.grammar.nearest import did_you_mean

Formula = Callable[..., int]


@dataclass(frozen=True, slots=True)
class AdapterOp:
    """What one adapter on a linear layer costs; `out_features`, `in_features`, then the sentence's
    integers.

    `params` counts weights, `flops` 2 × multiply-adds per row (token), `limit` is the largest first
    argument that fits the layer (None where there is no argument); `arguments` is how many integers the
    sentence gives.
    """

    name: str
    arguments: int
    params: Formula
    flops: Formula
    limit: Formula | None = None


@cache
def available() -> list[str]:
    """Names of the ops that have a file."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


@cache
def load(name: str) -> AdapterOp:
    """The op of that name; raises ValueError that lists the known ones."""
    if name not in available():
        raise ValueError(f"no op {name!r}{did_you_mean(name, available())} Known: {', '.join(available())}")
    op = importlib.import_module(f"archrank.grammar.ops.{name}").OP
    if not isinstance(op, AdapterOp):
        raise TypeError(f"grammar/ops/{name}.py: OP is {type(op).__name__}, an AdapterOp is needed")
    return op
