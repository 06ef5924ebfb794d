"""Each block of rows picks its weight: P candidates, C pre-merged weights of one module.

    y_p = x_p W_{c_p}ᵀ;   dx_p = dy_p W_{c_p};   dW_c = Σ_{p: c_p = c} dy_pᵀ x_p

With a few choices a module, W_c = W + s B_c A_c is merged once for each and no branch is left. Candidates of one choice
are one product; no weight is copied once for each candidate, as a batched product over gathered weights would.
"""

from __future__ import annotations

import torch
from torch import Tensor

from archrank.kernels.backend import use_triton
from archrank.kernels.checks import KernelError, check_dims, check_index, check_same, check_size

__all__ = ["grouped_choice_linear", "grouped_choice_linear_reference"]


def grouped_choice_linear_reference(x: Tensor, weights: Tensor, choice: Tensor) -> Tensor:
    """The formula in plain torch: a batched product over gathered weights. Shapes as `grouped_choice_linear`'s."""
    _check(x, weights, choice)
    check_index("grouped_choice_linear", "choice", choice, len(weights), "weights")
    return torch.bmm(x, weights[choice].transpose(1, 2))


def grouped_choice_linear(x: Tensor, weights: Tensor, choice: Tensor) -> Tensor:
    """X `(P, rows, in)`, weights `(C, out, in)`, choice `(P,)` whole numbers; returns `(P, rows, out)`.

    KernelError for shapes, dtypes or devices that do not fit and for a choice outside 0 … C − 1. Two runs give the same
    bits.
    """
    _check(x, weights, choice)
    y: Tensor = _forward(x, weights, choice)
    return y


def _check(x: Tensor, weights: Tensor, choice: Tensor) -> None:
    op = "grouped_choice_linear"
    check_dims(op, {"x": x, "weights": weights, "choice": choice}, {"x": 3, "weights": 3, "choice": 1})
    check_same(op, {"x": x, "weights": weights})
    if choice.dtype not in (torch.int64, torch.int32) or choice.device != x.device:
        raise KernelError(
            f"{op}: choice {tuple(choice.shape)} is {str(choice.dtype)[6:]} on {choice.device}; it names a weight for "
            f"each block of x: int32 or int64, on {x.device}"
        )
    check_size(op, "the width of x", x.shape[2], weights.shape[2], f"weights are {tuple(weights.shape)}")
    check_size(op, "the length of choice", len(choice), len(x), f"x has {len(x)} blocks of rows")


@torch.library.custom_op("archrank::grouped_choice_linear", mutates_args=())
def _forward(x: Tensor, weights: Tensor, choice: Tensor) -> Tensor:
    check_index("grouped_choice_linear", "choice", choice, len(weights), "weights")
    return _product(x, weights, choice)


@_forward.register_fake
def _(x: Tensor, weights: Tensor, choice: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], weights.shape[1])


@torch.library.custom_op("archrank::grouped_choice_linear_backward", mutates_args=())
def _backward(dy: Tensor, x: Tensor, weights: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
    """(dx, dW)."""
    dW = weights.new_zeros(weights.shape)
    for c, blocks in _groups(choice, len(weights)):
        dW[c] = dy[blocks].flatten(0, 1).T @ x[blocks].flatten(0, 1)
    return _product(dy, weights.transpose(1, 2), choice), dW


@_backward.register_fake
def _(dy: Tensor, x: Tensor, weights: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weights.new_empty(weights.shape)


def _product(x: Tensor, weights: Tensor, choice: Tensor) -> Tensor:
    written = x.shape[0] * x.shape[1] * weights.shape[1]
    if x.numel() and weights.numel() and use_triton("grouped_choice_linear", x, weights, largest=written):
        from archrank.kernels.triton_ops.grouped_choice_linear import product

        return product(x, weights, choice)
    y = x.new_zeros(x.shape[0], x.shape[1], weights.shape[1])
    for c, blocks in _groups(choice, len(weights)):
        y[blocks] = (x[blocks].flatten(0, 1) @ weights[c].T).view(len(blocks), x.shape[1], weights.shape[1])
    return y


def _groups(choice: Tensor, count: int) -> list[tuple[int, Tensor]]:
    """(weight, the blocks that chose it), the chosen ones only."""
    order = torch.argsort(choice, stable=True)
    sizes = torch.bincount(choice, minlength=count).tolist()
    return [(c, part) for c, part in enumerate(torch.split(order, sizes)) if len(part)]


def _setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: torch.autograd.function.FunctionCtx, dy: Tensor) -> tuple[Tensor, Tensor, None]:
    x, weights, choice = ctx.saved_tensors  # type: ignore[attr-defined]
    dx, dW = _backward(dy.contiguous(), x, weights, choice)
    return dx, dW, None


torch.library.register_autograd("archrank::grouped_choice_linear", _gradients, setup_context=_setup)
