"""Distinct adapters of distinct ranks over one batch: S-LoRA's case.

    y[o_i : o_{i+1}] = (x[o_i : o_{i+1}] A_iᵀ) B_iᵀ

Gradients are those of each segment's two products. There is no ragged Triton kernel: candidates that are evaluated on
the same batch have segments of equal length, for which padding to the largest rank is within about 10 % of a ragged
kernel's memory traffic from 256 rows on (a floor by counting bytes, docs/kernels.md); only decode-like segments under
about 64 rows would gain. Source: Sheng et al., S-LoRA, MLSys 2024.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from archrank.kernels.checks import KernelError, check_dims, check_same, check_size

__all__ = ["segmented_lora", "segmented_lora_reference"]


def segmented_lora_reference(x: Tensor, As: Sequence[Tensor], Bs: Sequence[Tensor], offsets: Tensor) -> Tensor:
    """The formula in plain torch. Shapes as `segmented_lora`'s."""
    _check(x, As, Bs, offsets)
    ends = _ends(offsets, len(x))
    parts = [x[i:j] @ A.T @ B.T for A, B, i, j in zip(As, Bs, ends[:-1], ends[1:], strict=True)]
    return torch.cat(parts)


def segmented_lora(x: Tensor, As: Sequence[Tensor], Bs: Sequence[Tensor], offsets: Tensor) -> Tensor:
    """X `(rows, in)`, As n tensors `(r_i, in)`, Bs n tensors `(out, r_i)`, offsets `(n + 1,)` whole numbers that begin
    with 0, do not fall and end with the number of rows; returns `(rows, out)`.

    KernelError for shapes, dtypes, devices or offsets that do not fit. Two runs give the same bits.
    """
    _check(x, As, Bs, offsets)
    y: Tensor = _forward(x, list(As), list(Bs), offsets)
    return y


def _check(x: Tensor, As: Sequence[Tensor], Bs: Sequence[Tensor], offsets: Tensor) -> None:
    op = "segmented_lora"
    if not len(As):
        raise KernelError(f"{op}: 0 adapters for x of shape {tuple(x.shape)}; at least 1")
    check_size(op, "the number of Bs", len(Bs), len(As), "each A has its B")
    named = {"x": x, **{f"As[{i}]": A for i, A in enumerate(As)}, **{f"Bs[{i}]": B for i, B in enumerate(Bs)}}
    check_dims(op, named, dict.fromkeys(named, 2))
    check_same(op, named)
    check_dims(op, {"offsets": offsets}, {"offsets": 1})
    if offsets.dtype not in (torch.int64, torch.int32):
        raise KernelError(f"{op}: offsets {tuple(offsets.shape)} are {str(offsets.dtype)[6:]}; int32 or int64")
    check_size(op, "the length of offsets", len(offsets), len(As) + 1, f"there are {len(As)} adapters")
    for i, (A, B) in enumerate(zip(As, Bs, strict=True)):
        check_size(op, f"the width of As[{i}]", A.shape[1], x.shape[1], f"x is {tuple(x.shape)}")
        check_size(op, f"the shape of Bs[{i}]", tuple(B.shape), (len(Bs[0]), len(A)), f"As[{i}] has rank {len(A)}")


def _ends(offsets: Tensor, rows: int) -> list[int]:
    """The offsets as numbers, checked."""
    ends: list[int] = offsets.tolist()
    if ends[0] != 0 or ends[-1] != rows or ends != sorted(ends):
        raise KernelError(
            f"segmented_lora: offsets are {ends}; they begin with 0, do not fall and end with the {rows} rows of x"
        )
    return ends


@torch.library.custom_op("archrank::segmented_lora", mutates_args=())
def _forward(x: Tensor, As: list[Tensor], Bs: list[Tensor], offsets: Tensor) -> Tensor:
    ends = _ends(offsets, len(x))
    y = x.new_empty(len(x), len(Bs[0]))
    for A, B, i, j in zip(As, Bs, ends[:-1], ends[1:], strict=True):
        torch.mm(x[i:j] @ A.T, B.T, out=y[i:j])
    return y


@_forward.register_fake
def _(x: Tensor, As: list[Tensor], Bs: list[Tensor], offsets: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], Bs[0].shape[0])


@torch.library.custom_op("archrank::segmented_lora_backward", mutates_args=())
def _backward(dy: Tensor, x: Tensor, As: list[Tensor], Bs: list[Tensor], offsets: Tensor) -> list[Tensor]:
    """[dx, dA_0 …, dB_0 …]."""
    ends = _ends(offsets, len(x))
    dx, dAs, dBs = x.new_empty(x.shape), list[Tensor](), list[Tensor]()
    for A, B, i, j in zip(As, Bs, ends[:-1], ends[1:], strict=True):
        u = dy[i:j] @ B
        torch.mm(u, A, out=dx[i:j])
        dAs.append(u.T @ x[i:j])
        dBs.append(dy[i:j].T @ (x[i:j] @ A.T))
    return [dx, *dAs, *dBs]


@_backward.register_fake
def _(dy: Tensor, x: Tensor, As: list[Tensor], Bs: list[Tensor], offsets: Tensor) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in (x, *As, *Bs)]


def _setup(
    ctx: torch.autograd.function.FunctionCtx,
    inputs: tuple[Tensor, list[Tensor], list[Tensor], Tensor],
    output: Tensor,
) -> None:
    x, As, Bs, offsets = inputs
    ctx.save_for_backward(x, offsets, *As, *Bs)


def _gradients(ctx: torch.autograd.function.FunctionCtx, dy: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor], None]:
    x, offsets, *factors = ctx.saved_tensors  # type: ignore[attr-defined]
    n = len(factors) // 2
    dx, *rest = _backward(dy.contiguous(), x, factors[:n], factors[n:], offsets)
    return dx, rest[:n], rest[n:], None


torch.library.register_autograd("archrank::segmented_lora", _gradients, setup_context=_setup)
