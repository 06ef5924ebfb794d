"""One bit a number: sign times mean magnitude, packed and back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archrank import kernels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(1,), (1, 1), (5, 13), (16, 64), (2, 3, 100), (0, 9), (3, 0)])
def test_pack_and_unpack(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    packed = kernels.onebit_pack(x)
    z = kernels.onebit_unpack(*packed)
    assert z.shape == x.shape
    assert z.dtype == dtype
    if x.numel():
        want = torch.where(x >= 0, 1.0, -1.0) * x.float().abs().mean(-1, keepdim=True)
        torch.testing.assert_close(z.float(), want.float(), rtol=8 * torch.finfo(dtype).eps + 1e-6, atol=0)
        bits, scale = packed[:2]
        assert bits.numel() == x.numel() // shape[-1] * ((shape[-1] + 7) // 8)
        assert scale.dtype == torch.float32


def test_the_scale_is_the_best_one() -> None:
    x = torch.randn(1, 50, generator=torch.Generator().manual_seed(1))
    z = kernels.onebit_unpack(*kernels.onebit_pack(x))
    error = (z - x).square().sum()
    assert all((factor * z - x).square().sum() > error for factor in (0.9, 0.99, 1.01, 1.1))


def test_bad_arguments_are_told() -> None:
    with pytest.raises(ValueError, match=r"onebit_pack: x is int64 of shape \(2, 8\); it packs rows of float16"):
        kernels.onebit_pack(torch.ones(2, 8).long())
    with pytest.raises(ValueError, match=r"onebit_pack: x is float32 of shape \(\)"):
        kernels.onebit_pack(torch.tensor(1.0))
    bits, scale, _, dtype = kernels.onebit_pack(torch.ones(2, 8))
    with pytest.raises(ValueError, match=r"bits \(2, 1\) uint8 and scale \(2, 1\), n = 9: bits are uint8 with 2 a row"):
        kernels.onebit_unpack(bits, scale, 9, dtype)
    with pytest.raises(ValueError, match=r"scale \(2, 1\) is float64 on cpu.*one float32 a row beside the bits"):
        kernels.onebit_unpack(bits, scale.double(), 8, dtype)
    with pytest.raises(ValueError, match=r"dtype int64; one float32 a row"):
        kernels.onebit_unpack(bits, scale, 8, torch.int64)


def test_opcheck_export_and_compile() -> None:
    x = torch.randn(3, 13, generator=torch.Generator().manual_seed(0))
    torch.library.opcheck(torch.ops.archrank.onebit_pack.default, (x,))
    bits, scale, n, dtype = kernels.onebit_pack(x)
    torch.library.opcheck(torch.ops.archrank.onebit_unpack.default, (bits, scale.clone().requires_grad_(), n, dtype))

    class Both(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return kernels.onebit_unpack(*kernels.onebit_pack(x))

    want = Both()(x)
    assert torch.equal(torch.export.export(Both(), (x,)).module()(x), want)
    assert torch.equal(torch.compile(Both(), fullgraph=True, backend="aot_eager")(x), want)


def test_the_gradient_of_a_scale() -> None:
    bits, scale, n, _ = kernels.onebit_pack(torch.randn(2, 5, generator=torch.Generator().manual_seed(0)))
    scale.requires_grad_()
    up = torch.arange(10.0).view(2, 5)
    (kernels.onebit_unpack(bits, scale, n, torch.float32) * up).sum().backward()
    signs = kernels.onebit_unpack(bits, torch.ones(2, 1), n, torch.float32)
    assert torch.equal(scale.grad, (signs * up).sum(1, keepdim=True))


@given(rows=st.integers(0, 7), n=st.integers(0, 70), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
@settings(max_examples=40, deadline=None)
def test_any_size(rows: int, n: int, dtype: torch.dtype) -> None:
    x = torch.randn(n, rows, generator=torch.Generator().manual_seed(n)).to(dtype).T
    z = kernels.onebit_unpack(*kernels.onebit_pack(x))
    assert z.shape == x.shape
    assert torch.equal(z >= 0, x >= 0)
    torch.testing.assert_close(z.float().abs(), x.float().abs().mean(-1, keepdim=True).expand_as(z), rtol=1e-2, atol=0)
