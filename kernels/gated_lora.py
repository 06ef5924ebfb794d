"""A linear layer with one shared low-rank branch whose components each row's candidate weighs.

    y = x Wᵀ + h̃ Bᵀ,   h̃ = h ∘ G[row_candidate],   h = x Aᵀ

G `(candidates, R)` holds mask, scale and soft gate at once: nested ranks are rows of ones and zeros, α / r a factor.
The cost does not depend on the number of candidates or on the mix of their ranks; a candidate of rank 0 gets the base's
bits. Gradients, with u = dy B:

    dh = u ∘ G[row];  dB = dyᵀ h̃;  dA = dhᵀ x;  dx = dy W + dh A;  dG_c = Σ_{rows of c} u ∘ h;  dW = dyᵀ x

Sources: LoRA (Hu et al., ICLR 2022); one dense product over all rows with masked columns instead of gathered adapters
(SGLang's all-slots form); dh, dB and dG from one read of dy (LoRAFusion, 2025), here with partial sums in a fixed order
where that adds atomically.
"""

from __future__ import annotations

import torch
from torch import Tensor

from archrank.kernels.backend import LARGEST_RANK, launch_planes, use_triton
from archrank.kernels.checks import FLOATS, KernelError, check_dims, check_index, check_same, check_size

__all__ = ["gated_lora", "gated_lora_reference"]


def gated_lora_reference(x: Tensor, W: Tensor, A: Tensor, B: Tensor, G: Tensor, row_candidate: Tensor) -> Tensor:
    """The formula in plain torch. Shapes as `gated_lora`'s."""
    _check(x, W, A, B, G, row_candidate)
    check_index("gated_lora", "row_candidate", row_candidate, len(G), "rows of G")
    h = x @ A.T
    return x @ W.T + (h * G[row_candidate]).to(x.dtype) @ B.T


def gated_lora(x: Tensor, W: Tensor, A: Tensor, B: Tensor, G: Tensor, row_candidate: Tensor) -> Tensor:
    """X `(rows, in)`, W `(out, in)`, A `(R, in)`, B `(out, R)`, G `(candidates, R)` in x's dtype or fp32,
    row_candidate `(rows,)` whole numbers; returns `(rows, out)`.

    Modules that share x (query, key, value) may stack their A. KernelError for shapes, dtypes or devices that do not
    fit and for a candidate outside G. Two runs give the same bits.
    """
    _check(x, W, A, B, G, row_candidate)
    y: Tensor = _forward(x, W, A, B, G, row_candidate)[0]
    return y


def _check(x: Tensor, W: Tensor, A: Tensor, B: Tensor, G: Tensor, row: Tensor) -> None:
    op = "gated_lora"
    check_dims(
        op,
        {"x": x, "W": W, "A": A, "B": B, "G": G, "row_candidate": row},
        {"x": 2, "W": 2, "A": 2, "B": 2, "G": 2, "row_candidate": 1},
    )
    check_same(op, {"x": x, "W": W, "A": A, "B": B})
    if G.dtype not in (x.dtype, torch.float32) or G.device != x.device or G.dtype not in FLOATS:
        raise KernelError(
            f"{op}: G {tuple(G.shape)} is {str(G.dtype)[6:]} on {G.device}; allowed: float32 or x's "
            f"{str(x.dtype)[6:]}, on {x.device}"
        )
    if row.dtype not in (torch.int64, torch.int32) or row.device != x.device:
        raise KernelError(
            f"{op}: row_candidate {tuple(row.shape)} is {str(row.dtype)[6:]} on {row.device}; it names a row of G for "
            f"each row of x: int32 or int64, on {x.device}"
        )
    check_size(op, "the width of x", x.shape[1], W.shape[1], f"W is {tuple(W.shape)}")
    check_size(op, "the width of A", A.shape[1], W.shape[1], f"W is {tuple(W.shape)}")
    check_size(op, "the shape of B", tuple(B.shape), (len(W), len(A)), "outputs of W by components of A")
    check_size(op, "the width of G", G.shape[1], len(A), f"A has {len(A)} components")
    check_size(op, "the length of row_candidate", len(row), len(x), f"x has {len(x)} rows")


@torch.library.custom_op("archrank::gated_lora", mutates_args=())
def _forward(x: Tensor, W: Tensor, A: Tensor, B: Tensor, G: Tensor, row_candidate: Tensor) -> tuple[Tensor, Tensor]:
    """(y, h): the backward pass needs h."""
    check_index("gated_lora", "row_candidate", row_candidate, len(G), "rows of G")
    fits = x.numel() and 0 < len(A) <= LARGEST_RANK
    if fits and use_triton("gated_lora", x, A, G, largest=len(x) * len(A)):
        from archrank.kernels.triton_ops.gated_lora import shrink

        h, gated = shrink(x, A, G, row_candidate)
    else:
        h = x @ A.T
        gated = (h * G[row_candidate]).to(x.dtype)
    # the second product adds into the first one's output: one pass over y less than adding it up
    return (x @ W.T).addmm_(gated, B.T), h


@_forward.register_fake
def _(x: Tensor, W: Tensor, A: Tensor, B: Tensor, G: Tensor, row_candidate: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], W.shape[0]), x.new_empty(x.shape[0], A.shape[0])


@torch.library.custom_op("archrank::gated_lora_backward", mutates_args=())
def _backward(
    dy: Tensor, x: Tensor, W: Tensor, A: Tensor, B: Tensor, G: Tensor, row_candidate: Tensor, h: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(dx, dA, dB, dG)."""
    fits = dy.numel() and 0 < len(A) <= LARGEST_RANK
    if fits and use_triton("gated_lora", dy, B, G, h, largest=launch_planes(dy) * B.numel()):
        from archrank.kernels.triton_ops.gated_lora import backward

        dh, dB, weighed = backward(dy, B, G, row_candidate, h)
    else:
        g = G[row_candidate]
        u = dy @ B
        dh = (u * g).to(x.dtype)
        dB = dy.T @ (h * g).to(x.dtype)
        weighed = u.to(G.dtype) * h.to(G.dtype)
    return (dy @ W).addmm_(dh, A), dh.T @ x, dB, _by_candidate(weighed, row_candidate, len(G)).to(G.dtype)


@_backward.register_fake
def _(
    dy: Tensor, x: Tensor, W: Tensor, A: Tensor, B: Tensor, G: Tensor, row_candidate: Tensor, h: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), A.new_empty(A.shape), B.new_empty(B.shape), G.new_empty(G.shape)


def _by_candidate(values: Tensor, row: Tensor, candidates: int) -> Tensor:
    """`(candidates, R)`: sums of the rows of each candidate, the same bits each time.

    On CUDA index_add_ adds in no fixed order; rows sorted by candidate and a difference of running sums in fp64 do.
    """
    if values.device.type == "cpu":
        zero = torch.zeros(candidates, values.shape[1], dtype=values.dtype)
        return zero.index_add_(0, row, values)
    order = torch.argsort(row, stable=True)
    sums = torch.cat([values.new_zeros(1, values.shape[1]).double(), values[order].double().cumsum(0)])
    ends = torch.bincount(row, minlength=candidates).cumsum(0)
    return (sums[ends] - sums[torch.cat([ends.new_zeros(1), ends[:-1]])]).to(values.dtype)


def _setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    x, W, A, B, G, row = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, W, A, B, G, row, output[1])


def _gradients(ctx: torch.autograd.function.FunctionCtx, dy: Tensor, dh: Tensor | None) -> tuple[Tensor | None, ...]:
    x, W, A, B, G, row, h = ctx.saved_tensors  # type: ignore[attr-defined]
    dx, dA, dB, dG = _backward(dy.contiguous(), x, W, A, B, G, row, h)
    dW = dy.T @ x if ctx.needs_input_grad[1] else None  # type: ignore[attr-defined]
    return dx, dW, dA, dB, dG, None


torch.library.register_autograd("archrank::gated_lora", _gradients, setup_context=_setup)
