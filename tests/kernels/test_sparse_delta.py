"""Sparse deltas in place: applied, exchanged, undone to the bit; refused without a trace."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archrank import kernels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("rising", [True, False])
def test_apply_switch_undo(dtype: torch.dtype, rising: bool) -> None:
    g = torch.Generator().manual_seed(0)
    W = torch.randn(65, 33, generator=g).to(dtype)
    whole = W.clone()
    first, second = (torch.randperm(W.numel(), generator=g)[:200] for _ in range(2))
    if rising:
        first, second = first.sort().values, second.sort().values
    values = [torch.randn(200, generator=g).to(dtype) for _ in range(2)]
    saved = kernels.sparse_delta_apply(W, first, values[0])
    assert torch.equal(W, whole.flatten().index_add(0, first, values[0]).view_as(W))
    assert torch.equal(saved, whole.flatten()[first])
    saved = kernels.sparse_delta_switch(W, first, saved, second, values[1])
    assert torch.equal(W, whole.flatten().index_add(0, second, values[1]).view_as(W))
    kernels.sparse_delta_undo(W, second, saved)
    assert torch.equal(W, whole)


def test_subtracting_would_not_be_exact() -> None:
    W = torch.full((4,), 1.0).bfloat16()
    index, value = torch.tensor([2]), torch.tensor([1e-3]).bfloat16()
    W.view(-1)[index] += torch.tensor([300.0]).bfloat16()
    was = W.clone()
    saved = kernels.sparse_delta_apply(W, index, value * 1000)
    kernels.sparse_delta_undo(W, index, saved)
    assert torch.equal(W, was)


def test_a_parameter_keeps_its_leaf_and_nothing_is_no_change() -> None:
    p = torch.nn.Parameter(torch.ones(3, 3))
    kernels.sparse_delta_apply(p, torch.tensor([4]), torch.tensor([2.0]))
    assert p.is_leaf
    assert p[1, 1] == 3
    assert kernels.sparse_delta_apply(p, torch.empty(0, dtype=torch.int64), torch.empty(0)).numel() == 0


@pytest.mark.parametrize(
    ("index", "value", "says"),
    [
        (torch.tensor([16]), torch.ones(1), r"index goes from 16 to 16; W has places 0 … 15"),
        (torch.tensor([-1]), torch.ones(1), r"index goes from -1 to -1"),
        (torch.tensor([5, 3, 40]), torch.ones(3), r"index goes from 3 to 40"),
        (torch.tensor([3, 3]), torch.ones(2), r"1 of 2 indices are given twice: add their values first"),
        (torch.tensor([3]), torch.ones(2), r"index \(1,\), value \(2,\): value is float32 on cpu, and must be one"),
        (torch.tensor([3]), torch.ones(1).bfloat16(), r"value is bfloat16 on cpu, and must be one float32"),
        (torch.tensor([3.0]), torch.ones(1), r"index is float32 on cpu, and must be int64, flat"),
    ],
)
def test_a_bad_delta_is_told_and_changes_nothing(index: Tensor, value: Tensor, says: str) -> None:
    W = torch.arange(16.0).view(4, 4)
    good = torch.tensor([0]), torch.tensor([0.0])
    for call in (
        lambda: kernels.sparse_delta_apply(W, index, value),
        lambda: kernels.sparse_delta_undo(W, index, value),
        lambda: kernels.sparse_delta_switch(W, *good, index, value),
    ):
        with pytest.raises(ValueError, match=says):
            call()
        assert torch.equal(W, torch.arange(16.0).view(4, 4))


def test_a_weight_in_pieces_is_told() -> None:
    with pytest.raises(ValueError, match=r"W \(4, 4\).*must be floating and contiguous"):
        kernels.sparse_delta_apply(torch.ones(4, 4).T, torch.tensor([0]), torch.ones(1))


def test_opcheck_export_and_compile() -> None:
    W, index, index2 = torch.randn(6, 5), torch.tensor([3, 7, 20]), torch.tensor([1, 7])
    value, value2 = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-1.0, 5.0])
    kernels.sparse_delta_apply(W.clone(), index, value)  # the file's ops exist once it is loaded
    ops = torch.ops.archrank
    torch.library.opcheck(ops.sparse_delta_apply.default, (W.clone(), index, value))
    torch.library.opcheck(ops.sparse_delta_undo.default, (W.clone(), index, value))
    torch.library.opcheck(ops.sparse_delta_switch.default, (W.clone(), index, value, index2, value2))

    class Switched(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("W", W.clone())

        def forward(self, x: Tensor) -> Tensor:
            saved = kernels.sparse_delta_apply(self.W, index, value)  # type: ignore[arg-type]
            one = x @ self.W
            saved = kernels.sparse_delta_switch(self.W, index, saved, index2, value2)  # type: ignore[arg-type]
            two = x @ self.W
            kernels.sparse_delta_undo(self.W, index2, saved)  # type: ignore[arg-type]
            return torch.cat([one, two, x @ self.W])

    x = torch.randn(2, 6)
    eager = Switched()
    want = eager(x)
    assert torch.equal(eager.W, W)
    assert torch.equal(torch.export.export(Switched(), (x,)).module()(x), want)
    compiled = Switched()
    assert torch.equal(torch.compile(compiled, fullgraph=True, backend="aot_eager")(x), want)
    assert torch.equal(compiled.W, W)


@given(size=st.integers(1, 60), seed=st.integers(0, 99), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
@settings(max_examples=40, deadline=None)
def test_any_chain_of_switches_undoes_to_the_bit(size: int, seed: int, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(size, generator=g).to(dtype)
    whole = W.clone()
    deltas = [
        (torch.randperm(size, generator=g)[:k], torch.randn(k, generator=g).to(dtype))
        for k in torch.randint(0, size + 1, (4,), generator=g).tolist()
    ]
    saved = kernels.sparse_delta_apply(W, *deltas[0])
    for (index, _), (index2, value2) in itertools.pairwise(deltas):
        saved = kernels.sparse_delta_switch(W, index, saved, index2, value2)
        assert torch.equal(W, whole.index_add(0, index2, value2))
    kernels.sparse_delta_undo(W, deltas[-1][0], saved)
    assert torch.equal(W, whole)
