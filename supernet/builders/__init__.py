"""The torch module of each op, one a file: `build(inputs, node) -> Module` for inputs of these shapes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import cast

from torch import nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape
from archrank.supernet.builders._convolution import WindowLinear

__all__ = ["Builder", "available", "convolution", "load"]

Builder = Callable[[tuple[Shape, ...], OpNode], nn.Module]


@cache
def available() -> tuple[str, ...]:
    """Names of the ops that have a module here."""
    return tuple(sorted(p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_")))


@cache
def load(name: str) -> Builder:
    """The builder of an op."""
    return cast(Builder, import_module(f"archrank.supernet.builders.{name}").build)


def convolution(linear: nn.Module, windows: OpNode) -> nn.Module:
    """A linear layer over the windows of an image as one convolution, with the same parameters."""
    assert isinstance(linear, nn.Linear)
    kernel, stride, padding = (int(n) for n in windows.arguments)
    return WindowLinear(linear, kernel, stride, padding)
