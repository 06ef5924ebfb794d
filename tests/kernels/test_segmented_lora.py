"""Segmented LoRA: distinct adapters of distinct ranks against their formula; refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archrank import kernels


def make(
    rows: tuple[int, ...], ranks: tuple[int, ...], K: int, N: int, dtype: torch.dtype
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    g = torch.Generator().manual_seed(0)
    rand = lambda *s: torch.randn(*s, generator=g).to(dtype).requires_grad_()  # noqa: E731
    offsets = torch.tensor([0, *rows]).cumsum(0)
    return rand(sum(rows), K), [rand(r, K) for r in ranks], [rand(N, r) for r in ranks], offsets


@pytest.mark.parametrize("name", ["segmented_lora", "segmented_lora_reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(
    ("rows", "ranks", "K", "N"),
    [((1,), (1,), 1, 1), ((3, 0, 17, 1), (2, 5, 1, 0), 33, 65), ((64, 7), (16, 3), 48, 31), ((0, 0), (2, 3), 4, 4)],
)
def test_equals_fp64(
    name: str, dtype: torch.dtype, rows: tuple[int, ...], ranks: tuple[int, ...], K: int, N: int
) -> None:
    x, As, Bs, offsets = make(rows, ranks, K, N, dtype)
    up = torch.randn(sum(rows), N, generator=torch.Generator().manual_seed(1)).to(dtype)
    told = []
    for f in (lambda t: t.double(), lambda t: t.double().abs()):
        a, *factors = (f(t.detach()).requires_grad_() for t in (x, *As, *Bs))
        n, ends = len(As), offsets.tolist()
        y = torch.cat(
            [a[i:j] @ A.T @ B.T for A, B, i, j in zip(factors[:n], factors[n:], ends, ends[1:], strict=False)]
        )
        told.append([y.detach(), *torch.autograd.grad(y, (a, *factors), f(up))])
    y = getattr(kernels, name)(x, As, Bs, offsets)
    got = [y.detach(), *torch.autograd.grad(y, (x, *As, *Bs), up)]
    eps = torch.finfo(dtype).eps
    for ours, truth, size in zip(got, *told, strict=True):
        assert ours.shape == truth.shape
        assert bool(((ours.double() - truth).abs() <= 8 * eps * size + 1e-30).all())


def test_opcheck() -> None:
    args = make((3, 2), (2, 1), 4, 5, torch.float64)
    kernels.segmented_lora(*args)  # the file's ops exist once it is loaded
    torch.library.opcheck(torch.ops.archrank.segmented_lora.default, args)


@pytest.mark.parametrize(
    ("offsets", "says"),
    [
        ([0, 7, 6], r"offsets are \[0, 7, 6\]; they begin with 0, do not fall and end with the 6 rows of x"),
        ([0, 4, 5], r"offsets are \[0, 4, 5\]"),
        ([1, 4, 6], r"offsets are \[1, 4, 6\]"),
        ([0, 6], r"the length of offsets is 2, and must be 3: there are 2 adapters"),
    ],
)
def test_bad_offsets_are_told(offsets: list[int], says: str) -> None:
    x, As, Bs, _ = make((4, 2), (2, 3), 8, 5, torch.float32)
    for op in (kernels.segmented_lora, kernels.segmented_lora_reference):
        with pytest.raises(ValueError, match=says):
            op(x, As, Bs, torch.tensor(offsets))


def test_bad_adapters_are_told() -> None:
    x, As, Bs, offsets = make((4, 2), (2, 3), 8, 5, torch.float32)
    with pytest.raises(ValueError, match=r"the number of Bs is 1, and must be 2: each A has its B"):
        kernels.segmented_lora(x, As, Bs[:1], offsets)
    with pytest.raises(ValueError, match=r"the shape of Bs\[0\] is \(5, 3\), and must be \(5, 2\): As\[0\] has rank 2"):
        kernels.segmented_lora(x, As, Bs[::-1], offsets)
    with pytest.raises(ValueError, match=r"As\[0\] \(2, 8\) is bfloat16 on cpu, x \(6, 8\) is float32"):
        kernels.segmented_lora(x, [As[0].bfloat16(), As[1]], Bs, offsets)
    with pytest.raises(ValueError, match=r"0 adapters for x of shape \(6, 8\); at least 1"):
        kernels.segmented_lora(x, [], [], torch.tensor([0]))
    with pytest.raises(ValueError, match=r"offsets \(3,\) are float32; int32 or int64"):
        kernels.segmented_lora(x, As, Bs, offsets.float())


def test_export_and_compile() -> None:
    x, As, Bs, offsets = make((4, 2), (2, 3), 8, 5, torch.float32)
    want = kernels.segmented_lora_reference(x, As, Bs, offsets)

    class Layer(torch.nn.Module):
        def forward(self, x: Tensor, As: list[Tensor], Bs: list[Tensor], offsets: Tensor) -> Tensor:
            return kernels.segmented_lora(x, As, Bs, offsets)

    args = tuple([t.detach() for t in a] if isinstance(a, list) else a.detach() for a in (x, As, Bs, offsets))
    torch.testing.assert_close(torch.export.export(Layer(), args).module()(*args), want)
    compiled = torch.compile(kernels.segmented_lora, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, As, Bs, offsets), want)


@given(
    segments=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6)), min_size=1, max_size=5),
    K=st.integers(1, 20),
    N=st.integers(1, 20),
)
@settings(max_examples=40, deadline=None)
def test_any_segments_and_their_permutation(segments: list[tuple[int, int]], K: int, N: int) -> None:
    rows, ranks = zip(*segments, strict=True)
    x, As, Bs, offsets = make(rows, ranks, K, N, torch.float32)
    y = kernels.segmented_lora(x, As, Bs, offsets)
    parts = [x[i:j] for i, j in zip(offsets.tolist(), offsets.tolist()[1:], strict=False)]
    exact = torch.cat([p.double() @ A.double().T @ B.double().T for p, A, B in zip(parts, As, Bs, strict=True)])
    size = torch.cat([p.abs() @ A.abs().T @ B.abs().T for p, A, B in zip(parts, As, Bs, strict=True)])
    assert bool(((y - exact).abs() <= 8 * torch.finfo(torch.float32).eps * size + 1e-30).all())
    back = torch.tensor([0, *rows[::-1]]).cumsum(0)
    turned = kernels.segmented_lora(torch.cat(parts[::-1]), As[::-1], Bs[::-1], back)
    torch.testing.assert_close(torch.cat(turned.split(list(rows[::-1]))[::-1]), y)
