"""The Walsh–Hadamard transform against scipy's matrix written out, in every length and dtype."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archrank import kernels

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
LENGTHS = [1, 2, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 384, 768, 7]


def matrix(n: int) -> Tensor:
    """Block-diagonal H over blocks of the largest power of two in n: entry (−1)^popcount(i & j) / √b."""
    b = n & -n
    H = torch.tensor([[(-1.0) ** bin(i & j).count("1") for j in range(b)] for i in range(b)], dtype=torch.float64)
    return H / b**0.5


def check(name: str, n: int, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(n)
    x = torch.randn(3, n, generator=g).to(dtype).requires_grad_()
    H = matrix(n)
    b = len(H)
    y = getattr(kernels, name)(x)
    up = torch.randn(3, n, generator=g).to(dtype)
    (dx,) = torch.autograd.grad(y, x, up)
    eps = torch.finfo(dtype).eps
    for got, of in ((y, x), (dx, up)):
        blocks = of.detach().double().reshape(3, n // b, b)
        truth, size = (blocks @ H).reshape(3, n), (blocks.abs() @ H.abs()).reshape(3, n)
        assert got.dtype == dtype
        assert bool(((got.double() - truth).abs() <= 8 * eps * size + 1e-30).all())


@pytest.mark.parametrize("name", ["walsh_hadamard", "walsh_hadamard_reference"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [n for n in LENGTHS if n <= 1024])
def test_equals_the_matrix(name: str, n: int, dtype: torch.dtype) -> None:
    check(name, n, dtype)


@pytest.mark.parametrize("n", [2048, 4096, 8192])
def test_long_rows_equal_the_butterfly(n: int) -> None:
    x = torch.randn(5, n, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(kernels.walsh_hadamard(x), kernels.walsh_hadamard_reference(x), atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("dtype", DTYPES[:3])
@pytest.mark.parametrize("n", [256, 512, 1024, 768])
def test_triton_equals_the_matrix(n: int, dtype: torch.dtype) -> None:
    check("walsh_hadamard", n, dtype)


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("n", [2048, 4096])
def test_triton_long_rows(n: int) -> None:
    x = torch.randn(2, n, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(kernels.walsh_hadamard(x), kernels.walsh_hadamard_reference(x), atol=1e-5, rtol=1e-5)


def test_is_its_own_inverse_on_any_layout() -> None:
    x = torch.randn(2, 64, 3, 5).movedim(1, -1)
    assert not x.is_contiguous()
    torch.testing.assert_close(kernels.walsh_hadamard(kernels.walsh_hadamard(x)), x, atol=1e-5, rtol=1e-5)
    assert kernels.walsh_hadamard(torch.ones(0, 8)).shape == (0, 8)
    one = torch.ones(3, 1)
    assert kernels.walsh_hadamard(one).data_ptr() != one.data_ptr()


def test_gradcheck_and_opcheck() -> None:
    x = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(kernels.walsh_hadamard, (x,))
    torch.library.opcheck(torch.ops.archrank.walsh_hadamard.default, (x,))


@pytest.mark.parametrize("x", [torch.ones(2, 8).long(), torch.tensor(1.0), torch.ones(2, 0)])
def test_bad_arguments_are_told(x: Tensor) -> None:
    for op in (kernels.walsh_hadamard, kernels.walsh_hadamard_reference):
        with pytest.raises(
            ValueError, match=r"walsh_hadamard: x is .* of shape .*; it transforms an axis of at least 1"
        ):
            op(x)


def test_export_and_compile() -> None:
    x = torch.randn(3, 24)
    want = kernels.walsh_hadamard_reference(x)

    class Layer(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return kernels.walsh_hadamard(x)

    torch.testing.assert_close(torch.export.export(Layer(), (x,)).module()(x), want)
    torch.testing.assert_close(torch.compile(Layer(), fullgraph=True, backend="aot_eager")(x), want)


@given(
    rows=st.integers(0, 40),
    n=st.integers(1, 96),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    flip=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_any_size(rows: int, n: int, dtype: torch.dtype, flip: bool) -> None:
    g = torch.Generator().manual_seed(rows * 97 + n)
    x = (torch.randn(n, rows, generator=g).T if flip else torch.randn(rows, n, generator=g)).to(dtype)
    H = matrix(n)
    blocks = x.double().reshape(rows, n // len(H), len(H))
    truth, size = (blocks @ H).reshape(rows, n), (blocks.abs() @ H.abs()).reshape(rows, n)
    y = kernels.walsh_hadamard(x)
    assert bool(((y.double() - truth).abs() <= 8 * torch.finfo(dtype).eps * size + 1e-30).all())
    assert torch.equal(kernels.walsh_hadamard(x), y)


def test_rows_may_be_split_and_permuted(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(37, 256, generator=torch.Generator().manual_seed(0))
    y, turn = kernels.walsh_hadamard(x), torch.randperm(37, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(kernels.walsh_hadamard(x[turn]), y[turn])
    torch.testing.assert_close(torch.cat([kernels.walsh_hadamard(p) for p in (x[:5], x[5:])]), y)
    monkeypatch.setattr(sys.modules[kernels.walsh_hadamard.__module__], "CACHED", 1000)
    torch.testing.assert_close(kernels.walsh_hadamard(x), y)
