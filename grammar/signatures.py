"""What an op is to the language: how a shape passes through it, and what that costs. Closed forms, no tensors.

A shape is a tuple without the batch: (channels, height, width) of an image, (length, width) of a sequence. Ops come
in four kinds: `Op` one value in, one out; `Split` one in, several equal pieces out; `Join` several in, one out;
`Structure` says how its parts are wired. `AdapterOp` is an adapter at a module of a base.

FLOPs are 2 × multiply-adds of matrix products and convolutions at batch 1, attention products included, all other
work as none: what torch.utils.flop_counter.FlopCounterMode counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from archrank.grammar.workload import OpCost

Shape = tuple[int, ...]
Argument = int | str
Formula = Callable[..., int]


class Value(NamedTuple):
    """What an edge carries: a shape, and the (height, width) of the image that its rows were cut from, where they
    were (`im2col` sets it, `col2im` needs it).
    """

    shape: Shape
    grid: tuple[int, int] | None = None


def elements(shape: Shape) -> int:
    """Numbers in a tensor of the shape, batch 1."""
    return math.prod(shape)


def shown(shape: Shape) -> str:
    """A shape as it is written in a file: 3x64x64."""
    return "x".join(map(str, shape))


def nothing(*_: object) -> int:
    """0, for ops without weights or products."""
    return 0


class Linear(NamedTuple):
    """A linear layer inside an op that an adapter can hang on: its name there, and its weight's shape."""

    name: str
    outputs: int
    inputs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One value in, one out.

    `arguments`: how many the sentence gives. `infer(value, *arguments)` is the output, or None where the input does
    not fit. `params`, `flops` and `costs` take the input's shape and the arguments; `costs(shape, batch, *arguments)`
    lists what a device runs. `inverse(shape, *arguments)` is the input that gives an output shape, where there is just
    one. `view`: writes no memory of its own. `identity`: leaves no trace in the canonical form. `linears(shape,
    *arguments)`: of an op that adapters hang on, its linear layers, one a part of the sentence.
    """

    name: str
    arguments: int = 0
    infer: Callable[..., Value | None]
    params: Formula = nothing
    flops: Formula = nothing
    costs: Callable[..., Sequence[OpCost]] | None = None
    inverse: Callable[..., Shape | None] | None = None
    view: bool = False
    identity: bool = False
    linears: Callable[..., tuple[Linear, ...]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One value into `ways` pieces of one shape: `infer(value, ways, *arguments)`; `same` where all are the input."""

    name: str
    arguments: int = 0
    infer: Callable[..., Value | None]
    same: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Several values into one: `infer(values, *arguments)`, `flops(shapes, *arguments)`, `costs(shapes, batch,
    *arguments)`.

    `parts(shape, ways, *arguments)` is the one input shape of which `ways` give an output shape, where there is one.
    `commutative`: the order of its inputs does not matter.
    """

    name: str
    arguments: int = 0
    infer: Callable[..., Value | None]
    flops: Formula = nothing
    costs: Callable[..., Sequence[OpCost]] | None = None
    parts: Callable[..., Shape | None] | None = None
    commutative: bool = False


class Step(NamedTuple):
    """One step of a wiring: what runs (the number of a part, or an op of its own with its arguments), the registers
    it reads and those it writes. Register 0 holds the input; the last one written is the output.
    """

    part: int | Op | Join
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    arguments: tuple[Argument, ...] = ()


@dataclass(frozen=True, slots=True)
class Wiring:
    """Steps in order. Parts are first run in the order in which the sentence gives them."""

    steps: tuple[Step, ...]
    registers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """How parts are wired: `wiring(parts, *arguments)`; `kinds(parts)` says what each part must be: op, split, join.

    `form` is `chain` (the parts one after the other; flattened in the canonical form), `branch` (split, modules, join)
    or `graph`. A graph may state its own canonical form of its parts' canonical forms.
    """

    name: str
    arguments: int = 0
    wiring: Callable[..., Wiring]
    form: str = "graph"
    least_parts: int = 1
    canonical: Callable[[Sequence[str]], str] | None = None


@dataclass(frozen=True, slots=True)
class AdapterOp:
    """What one adapter on a linear layer costs; `out_features`, `in_features`, then the sentence's integers.

    `params` counts weights, `flops` 2 × multiply-adds per row (token), `limit` is the largest first argument that
    fits the layer (None where there is no argument); `arguments` is how many integers the sentence gives.
    """

    name: str
    arguments: int
    params: Formula
    flops: Formula
    limit: Formula | None = None


Signature = Op | Split | Join | Structure | AdapterOp


def same(value: Value, *_: Argument) -> Value:
    """An output like the input."""
    return value


def same_shape(shape: Shape, *_: Argument) -> Shape:
    """The inverse of `same`."""
    return shape


def rows(shape: Shape) -> int:
    """Elements before the last axis."""
    return math.prod(shape[:-1])


def elementwise(kind: str) -> Callable[..., tuple[OpCost, ...]]:
    """The costs of an op that reads and writes every element once, by its name in `workload.FORMS`."""

    def costs(shape: Shape, batch: int, *_: Argument) -> tuple[OpCost, ...]:
        return (OpCost.of(kind, {"m": batch * rows(shape), "n": shape[-1]}),)

    return costs
