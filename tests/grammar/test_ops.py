"""Every op against torch: shapes by meta tensors, parameters by numel, FLOPs by FlopCounterMode; whole networks too."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from archrank import spaces
from archrank.grammar import ops
from archrank.grammar.architecture import Architecture
from archrank.grammar.signatures import Argument, Join, Op, Shape, Split, Value, elements

BATCH = 2
Grid = tuple[int, int] | None
Weights = Callable[[nn.Module], nn.Module]


def im2col(x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    if x.dim() != 4:
        raise RuntimeError("no image")
    return nn.functional.unfold(x, kernel, padding=padding, stride=stride).transpose(1, 2)


def col2im(x: Tensor, grid: Grid) -> Tensor:
    if x.dim() != 3 or grid is None:
        raise RuntimeError("no rows of an image")
    return x.transpose(1, 2).unflatten(2, grid)


def conv1d(x: Tensor, weights: Weights, kernel: int, width: int) -> Tensor:
    if x.dim() != 3:
        raise RuntimeError("no sequence")
    # padding by hand: torch warns that "same" copies the input where the kernel is even
    y = nn.functional.pad(x.transpose(1, 2), ((kernel - 1) // 2, kernel // 2))
    return weights(nn.Conv1d(x.shape[2], width, kernel))(y).transpose(1, 2)


def norm(x: Tensor, weights: Weights) -> Tensor:
    return weights(nn.BatchNorm2d(x.shape[1]) if x.dim() == 4 else nn.LayerNorm(x.shape[-1]))(x)


class Encoding(nn.Module):
    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(tuple(shape)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


def permuted(x: Tensor, digits: int) -> Tensor:
    return x.permute(0, *(int(digit) for digit in str(digits)))


# one value, its grid, what takes the weights in, the sentence's arguments
ONE: dict[str, Callable[..., Tensor]] = {
    "col2im": lambda x, grid, weights: col2im(x, grid),
    "conv1d": lambda x, grid, weights, kernel, width: conv1d(x, weights, kernel, width),
    "id": lambda x, grid, weights: x,
    "im2col": lambda x, grid, weights, *window: im2col(x, *window),
    "fork": lambda x, grid, weights, members: x,
    "leaky_relu": lambda x, grid, weights: nn.functional.leaky_relu(x),
    "linear": lambda x, grid, weights, width: weights(nn.Linear(x.shape[-1], width))(x),
    "norm": lambda x, grid, weights: norm(x, weights),
    "permute": lambda x, grid, weights, digits: permuted(x, digits),
    "pos_enc": lambda x, grid, weights: weights(Encoding(x.shape[1:]))(x),
    "softmax": lambda x, grid, weights: x.softmax(-1),
}
SPLIT: dict[str, Callable[..., Sequence[Tensor]]] = {
    "clone": lambda x, ways: [x] * ways,
    "group": lambda x, ways, axis: x.unflatten(axis, (ways, -1)).unbind(axis),
}
MANY: dict[str, Callable[..., Tensor]] = {
    "add": lambda xs: torch.stack(xs).sum(0),
    "average": lambda xs: torch.stack(xs).mean(0),
    "concat": torch.cat,
    "matmul": lambda xs: xs[0] @ xs[1],
    "members": lambda xs: torch.cat([x.mean((2, 3)) if x.dim() == 4 else x.mean(1) for x in xs], 1),
    "scaled_matmul": lambda xs: xs[0] @ xs[1] / math.sqrt(xs[0].shape[-1]),
}

SHAPES = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
GIVEN: dict[str, st.SearchStrategy[tuple[int, ...]]] = {
    "conv1d": st.tuples(st.integers(1, 9), st.integers(1, 9)),
    "im2col": st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(0, 3)),
    "fork": st.tuples(st.integers(1, 4)),
    "linear": st.tuples(st.integers(1, 40)),
    "permute": st.sampled_from([(n,) for n in (12, 21, 123, 132, 213, 231, 312, 321, 122, 1234)]),
    "group": st.tuples(st.integers(1, 3)),
    "concat": st.tuples(st.integers(1, 3)),
}


def meta(shape: Shape) -> Tensor:
    return torch.empty(BATCH, *shape, device="meta")


def tried(run: Callable[[], Tensor]) -> Tensor | None:
    """What torch gives; None where it raises."""
    try:
        return run()
    except (RuntimeError, IndexError, ValueError):
        return None


class Taken(list[nn.Module]):
    """Keeps the modules that an expression makes, so that their weights can be counted."""

    def __call__(self, module: nn.Module) -> nn.Module:
        self.append(module)
        return module

    def numel(self) -> int:
        return sum(p.numel() for module in self for p in module.parameters())


def test_the_tables_hold_every_op_that_computes() -> None:
    kinds = {name: type(ops.load(name)) for name in ops.shipped()}
    assert set(ONE) <= {name for name, kind in kinds.items() if kind is Op}
    assert set(SPLIT) == {name for name, kind in kinds.items() if kind is Split}
    assert set(MANY) == {name for name, kind in kinds.items() if kind is Join}


@pytest.mark.parametrize("name", ONE)
def test_one_value(name: str) -> None:
    op = ops.load(name)
    assert isinstance(op, Op)

    @settings(max_examples=60, deadline=None)
    @given(SHAPES, st.sampled_from([None, (1, 4), (2, 3), (3, 2), (2, 2)]), GIVEN.get(name, st.just(())))
    def check(shape: Shape, grid: Grid, arguments: tuple[int, ...]) -> None:
        if grid is not None and len(shape) == 2 and sum(shape) % 3:
            shape = (grid[0] * grid[1], shape[1])
        taken = Taken()
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            y = tried(lambda: ONE[name](meta(shape), grid, taken, *arguments))
        out = op.infer(Value(shape, grid), *arguments)
        assert (out is None) == (y is None)
        if out is None or y is None:
            return
        assert out.shape == tuple(y.shape[1:])
        assert op.params(shape, *arguments) == taken.numel()
        assert BATCH * op.flops(shape, *arguments) == counter.get_total_flops()
        if op.costs is not None:
            assert sum(cost.flops for cost in op.costs(shape, BATCH, *arguments)) == counter.get_total_flops()
        if op.inverse is not None and name != "col2im":
            assert op.inverse(out.shape, *arguments) == shape

    check()


@pytest.mark.parametrize("name", SPLIT)
def test_splits(name: str) -> None:
    op = ops.load(name)
    assert isinstance(op, Split)

    @settings(max_examples=60, deadline=None)
    @given(SHAPES, st.sampled_from([2, 3, 4, 8]), GIVEN.get(name, st.just(())))
    def check(shape: Shape, ways: int, arguments: tuple[int, ...]) -> None:
        try:
            pieces = SPLIT[name](meta(shape), ways, *arguments)
        except (RuntimeError, IndexError):
            pieces = []
        out = op.infer(Value(shape), ways, *arguments)
        assert [tuple(piece.shape[1:]) for piece in pieces] == ([out.shape] * ways if out else [])
        assert op.same == all(piece is pieces[0] for piece in pieces) or not pieces

    check()


@pytest.mark.parametrize("name", MANY)
def test_joins(name: str) -> None:
    op = ops.load(name)
    assert isinstance(op, Join)

    @settings(max_examples=80, deadline=None)
    @given(
        SHAPES, st.integers(2, 4), st.integers(0, 3), st.integers(1, 12), GIVEN.get(name, st.just(())), st.booleans()
    )
    def check(shape: Shape, count: int, axis: int, other: int, arguments: tuple[int, ...], turned: bool) -> None:
        second = list(shape)
        if turned:
            second[-2:] = second[:-3:-1]
        if axis < len(second):
            second[axis] = other
        shapes = (shape, *[tuple(second)] * (count - 1))
        with FlopCounterMode(display=False) as counter:
            y = tried(lambda: MANY[name]([meta(s) for s in shapes], *arguments))
        if name in ("matmul", "scaled_matmul") and (count > 2 or shape[:-2] != tuple(second[:-2])):
            y = None  # torch would broadcast, or leave values out: the language does neither
        out = op.infer(tuple(map(Value, shapes)), *arguments)
        assert (out is None) == (y is None)
        if out is None or y is None:
            return
        assert out.shape == tuple(y.shape[1:])
        assert BATCH * op.flops(shapes, *arguments) == counter.get_total_flops()
        assert op.costs is not None
        assert sum(cost.flops for cost in op.costs(shapes, BATCH, *arguments)) == counter.get_total_flops()
        if op.parts is not None and len(set(shapes)) == 1:
            assert op.parts(out.shape, count, *arguments) == shape

    check()


@dataclass
class Ran:
    """An architecture run by the tables above, op by op."""

    shapes: list[Shape] = field(default_factory=list)
    weights: Taken = field(default_factory=Taken)
    grids: list[Grid] = field(default_factory=list)


def run(arch: Architecture) -> Ran:
    """The ops in order on meta tensors. A grid is what the windows of `im2col` span; a sum of unlike grids has none."""
    ran = Ran()
    tensors = [meta(arch.input)]
    pieces: dict[tuple[int, str, tuple[Argument, ...]], Sequence[Tensor]] = {}
    grids: list[Grid] = [None]
    for node in arch.ops:
        read, held = [tensors[i + 1] for i in node.inputs], [grids[i + 1] for i in node.inputs]
        grid = held[0]
        if node.op in ONE:
            y = ONE[node.op](read[0], grid, ran.weights, *node.arguments)
            if node.op == "im2col":
                kernel, stride, padding = (int(a) for a in node.arguments)
                grid = tuple((n + 2 * padding - kernel) // stride + 1 for n in read[0].shape[2:])  # type: ignore[assignment]
            elif node.op == "col2im":
                grid = None
        elif node.op in SPLIT:
            *arguments, index, ways = node.arguments
            key = (node.inputs[0], node.op, tuple(arguments))
            if key not in pieces:
                pieces[key] = SPLIT[node.op](read[0], ways, *arguments)
            y = pieces[key][int(index)]
        else:
            y = MANY[node.op](read, *node.arguments)
            grid = None if node.op == "add" and len(set(held)) > 1 else grid
        ran.shapes.append(tuple(y.shape[1:]))
        tensors.append(y)
        grids.append(grid)
    return ran


@pytest.mark.parametrize(("shape", "count"), [((3, 64, 64), 90), ((3, 32, 32), 40), ((1, 28, 27), 40), ((48, 6), 40)])
def test_sampled_networks_run_as_inferred(shape: Shape, count: int) -> None:
    """Every op's shape, the parameters and the FLOPs of sampled networks, recomputed by torch."""
    space = spaces.load("einspace").with_input(shape)
    longest = 0
    with torch.device("meta"):
        for d in space.sample(np.random.default_rng(11), count):
            arch = space.elaborate(d)
            with FlopCounterMode(display=False) as counter:
                ran = run(arch)
            assert ran.shapes == [node.shape for node in arch.ops], d.text
            assert ran.weights.numel() == arch.params, d.text
            assert counter.get_total_flops() == BATCH * arch.flops, d.text
            assert arch.workload(BATCH).flops == BATCH * arch.flops
            assert all(node.written in (0, elements(node.shape)) for node in arch.ops)
            longest = max(longest, len(arch.ops))
    assert longest > 30


def test_two_thousand_samples_have_consistent_shapes() -> None:
    space = spaces.load("einspace")
    for d in space.sample(np.random.default_rng(12), 2000):
        arch = space.elaborate(d)
        assert all(-1 <= i < place for place, node in enumerate(arch.ops) for i in node.inputs)
        assert arch.params == sum(node.params for node in arch.ops) <= 50_000_000
        assert arch.activation_bytes <= 16 * 2**20
        assert space.meets(d)
