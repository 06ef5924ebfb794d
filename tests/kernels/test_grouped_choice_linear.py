"""Grouped choice: the reference, the op and its Triton kernel against fp64; refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from archrank import kernels
from archrank.kernels.backend import use_triton

SHAPES = [(1, 1, 1, 1, 1), (5, 3, 17, 9, 4), (7, 33, 65, 31, 3), (3, 0, 8, 8, 2), (0, 4, 8, 8, 2), (4, 40, 33, 70, 9)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def check(name: str, shape: tuple[int, int, int, int, int], dtype: torch.dtype, strided: bool, seed: int = 0) -> None:
    """|error| ≤ 8 eps × the sum of the sizes of the terms, for output and both gradients."""
    P, m, K, N, C = shape
    g = torch.Generator().manual_seed(seed)

    def rand(*s: int) -> Tensor:
        t = torch.randn(*s, generator=g).to(dtype)
        return torch.stack([t, torch.full_like(t, float("nan"))], -1)[..., 0] if strided else t

    x, weights, choice = rand(P, m, K), rand(C, N, K), torch.randint(0, C, (P,), generator=g)
    up = torch.randn(P, m, N, generator=g).to(dtype)
    told = []
    for f in (lambda t: t.double(), lambda t: t.double().abs()):
        a, b = (f(t).detach().requires_grad_() for t in (x, weights))
        y = torch.einsum("pmk,pnk->pmn", a, b[choice])
        told.append([y.detach(), *torch.autograd.grad(y, (a, b), f(up))])
    a, b = (t.detach().requires_grad_() for t in (x, weights))
    y = getattr(kernels, name)(a, b, choice)
    eps = torch.finfo(dtype).eps
    for got, truth, size in zip([y.detach(), *torch.autograd.grad(y, (a, b), up)], *told, strict=True):
        assert got.shape == truth.shape
        assert bool(((got.double() - truth).abs() <= 8 * eps * size + 1e-30).all())


@pytest.mark.parametrize("name", ["grouped_choice_linear", "grouped_choice_linear_reference"])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strided", [False, True])
def test_equals_fp64(name: str, shape: tuple[int, int, int, int, int], dtype: torch.dtype, strided: bool) -> None:
    check(name, shape, dtype, strided)


@pytest.mark.usefixtures("interpreter")
@given(
    shape=st.tuples(*(st.integers(1, top) for top in (5, 40, 40, 40, 5))),
    dtype=st.sampled_from(DTYPES),
    strided=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_triton_any_size(shape: tuple[int, int, int, int, int], dtype: torch.dtype, strided: bool, seed: int) -> None:
    assert use_triton("grouped_choice_linear", torch.ones(1, dtype=dtype))
    check("grouped_choice_linear", shape, dtype, strided, seed)


@pytest.mark.parametrize("triton", [False, True])
def test_permuted_blocks_and_equal_bits(triton: bool, request: pytest.FixtureRequest) -> None:
    if triton:
        request.getfixturevalue("interpreter")
    g = torch.Generator().manual_seed(0)
    x, weights, choice = torch.randn(6, 9, 20, generator=g), torch.randn(3, 11, 20, generator=g), torch.arange(6) % 3
    y = kernels.grouped_choice_linear(x, weights, choice)
    assert torch.equal(y, kernels.grouped_choice_linear(x, weights, choice))
    turn = torch.tensor([5, 2, 0, 1, 4, 3])
    torch.testing.assert_close(kernels.grouped_choice_linear(x[turn], weights, choice[turn]), y[turn])


def test_gradcheck_and_opcheck() -> None:
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    choice = torch.tensor([1, 0, 1])
    assert torch.autograd.gradcheck(lambda *a: kernels.grouped_choice_linear(*a, choice), (x, weights))
    torch.library.opcheck(torch.ops.archrank.grouped_choice_linear.default, (x, weights, choice))


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        (torch.full((4,), 4), r"choice has values from 4 to 4, and there are 4 weights: 0 … 3"),
        (torch.full((4,), -1), r"choice has values from -1 to -1"),
        (torch.zeros(3, dtype=torch.int64), r"length of choice is 3, and must be 4: x has 4 blocks"),
        (torch.zeros(4), r"choice \(4,\) is float32 on cpu; it names a weight"),
    ],
)
def test_bad_choices_are_told(choice: Tensor, says: str) -> None:
    for op in (kernels.grouped_choice_linear, kernels.grouped_choice_linear_reference):
        with pytest.raises(ValueError, match=says):
            op(torch.ones(4, 2, 8), torch.ones(4, 5, 8), choice)
        with pytest.raises(ValueError, match=r"the width of x is 8, and must be 7"):
            op(torch.ones(4, 2, 8), torch.ones(4, 5, 7), torch.zeros(4, dtype=torch.int64))


def test_export_and_compile() -> None:
    args = (torch.randn(3, 2, 4), torch.randn(2, 3, 4), torch.tensor([1, 0, 1]))
    want = kernels.grouped_choice_linear_reference(*args)

    class Layer(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return kernels.grouped_choice_linear(*inputs)

    torch.testing.assert_close(torch.export.export(Layer(), args).module()(*args), want)
    torch.testing.assert_close(torch.compile(Layer(), fullgraph=True, backend="aot_eager")(*args), want)
