"""Every kernel on a CUDA device against fp64, in each dtype; its bits repeat; deselected by `make test`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from archrank import kernels
from archrank.kernels.backend import use_triton

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def bound(got: Tensor, exact: Tensor, size: Tensor, dtype: torch.dtype) -> None:
    """|error| ≤ 8 eps × the sum of the sizes of the terms."""
    assert got.shape == exact.shape
    assert bool(((got.double() - exact).abs() <= 8 * torch.finfo(dtype).eps * size + 1e-30).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(5, 7, 3, 2, 2), (257, 384, 129, 5, 7), (1000, 96, 200, 33, 3), (64, 64, 64, 128, 2)]
)
def test_gated_lora(shape: tuple[int, int, int, int, int], dtype: torch.dtype) -> None:
    M, K, N, R, P = shape
    g = torch.Generator().manual_seed(0)
    rand = lambda *s: torch.randn(*s, generator=g).to("cuda", dtype)  # noqa: E731
    x, W, A, B = rand(M, K), rand(N, K), rand(R, K), rand(N, R)
    G, row = torch.rand(P, R, generator=g).cuda(), torch.randint(0, P, (M,), generator=g).cuda()
    assert use_triton("gated_lora", x, A, G) == (dtype != torch.float32)
    told = []
    for f in (lambda t: t.double(), lambda t: t.double().abs()):
        leaves = [f(t).requires_grad_() for t in (x, A, B, G)]
        y = leaves[0] @ f(W).T + ((leaves[0] @ leaves[1].T) * leaves[3][row]) @ leaves[2].T
        told.append([y.detach(), *torch.autograd.grad(y, leaves, torch.ones_like(y))])

    def run() -> list[Tensor]:
        leaves = [t.clone().requires_grad_() for t in (x, A, B, G)]
        y = kernels.gated_lora(leaves[0], W, leaves[1], leaves[2], leaves[3], row)
        return [y.detach(), *torch.autograd.grad(y, leaves, torch.ones_like(y))]

    first = run()
    for got, exact, size in zip(first, *told, strict=True):
        bound(got, exact, size, dtype)
    assert all(map(torch.equal, first, run()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_grouped_choice_and_walsh_hadamard(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    x, weights = (torch.randn(*s, generator=g).to("cuda", dtype) for s in ((7, 70, 65), (3, 130, 65)))
    choice = torch.arange(7).cuda() % 3
    exact, size = (torch.bmm(f(x), f(weights)[choice].mT) for f in (torch.Tensor.double, lambda t: t.double().abs()))
    bound(kernels.grouped_choice_linear(x, weights, choice), exact, size, dtype)
    for n in (16, 256, 768, 4096, 8192):
        x = torch.randn(3, n, generator=g).to("cuda", dtype)
        b = n & -n
        H = kernels.walsh_hadamard_reference(torch.eye(b, dtype=torch.float64, device="cuda"))
        blocks = x.double().view(3, n // b, b)
        bound(kernels.walsh_hadamard(x), (blocks @ H).view(3, n), (blocks.abs() @ H.abs()).view(3, n), dtype)


def test_sparse_delta_undoes_to_the_bit() -> None:
    W = torch.randn(64, 64, device="cuda").bfloat16()
    was, index = W.clone(), torch.randperm(4096, device="cuda")[:300]
    saved = kernels.sparse_delta_apply(W, index, torch.randn(300, device="cuda").bfloat16())
    assert not torch.equal(W, was)
    kernels.sparse_delta_undo(W, index, saved)
    assert torch.equal(W, was)


def test_wrong_devices_are_told() -> None:
    x = torch.ones(4, 4)
    with pytest.raises(ValueError, match="give both one dtype and one device"):
        kernels.gated_lora(x.cuda(), x, x, x, x, torch.zeros(4, dtype=torch.int64))
