"""A sparse adapter on a weight in place: put on, taken off to the bit, exchanged for another.

    W[i_j] ← W[i_j] + v_j  for flat indices i, each once;   saved_j = W[i_j] before

What was overwritten is kept and written back: subtracting v would leave a rounding in bf16. Indices in rising order are
checked in one pass and read memory in order, so store them sorted. Used as SHiRA does (Bhardwaj et al.,
NeurIPS 2024): 1 % of a 4096 × 4096 weight is exchanged without touching the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from archrank.kernels.checks import FLOATS, KernelError

__all__ = ["sparse_delta_apply", "sparse_delta_switch", "sparse_delta_undo"]


def sparse_delta_apply(W: Tensor, index: Tensor, value: Tensor) -> Tensor:
    """Adds `value` `(k,)` at the flat places `index` `(k,)` of W, in place; returns the k values that were there.

    KernelError, with W untouched, for an index outside W or given twice, values of another number or dtype, or a W
    whose memory is not in one piece.
    """
    _check(W, index, value)
    with torch.no_grad():
        saved: Tensor = _apply(W, index, value)
    return saved


def sparse_delta_undo(W: Tensor, index: Tensor, saved: Tensor) -> None:
    """Writes back what `sparse_delta_apply` returned: W has its old bits again."""
    _check(W, index, saved)
    with torch.no_grad():
        _undo(W, index, saved)


def sparse_delta_switch(W: Tensor, index: Tensor, saved: Tensor, index2: Tensor, value2: Tensor) -> Tensor:
    """Takes one delta off and puts another on; returns what the second one overwrote, W's own bits."""
    _check(W, index, saved)
    _check(W, index2, value2)
    with torch.no_grad():
        own: Tensor = _switch(W, index, saved, index2, value2)
    return own


@torch.library.custom_op("archrank::sparse_delta_apply", mutates_args=("W",))
def _apply(W: Tensor, index: Tensor, value: Tensor) -> Tensor:
    _check_places(W, index)
    return _add(W, index, value)


@torch.library.custom_op("archrank::sparse_delta_undo", mutates_args=("W",))
def _undo(W: Tensor, index: Tensor, saved: Tensor) -> None:
    _check_places(W, index)
    _write(W, index, saved)


@torch.library.custom_op("archrank::sparse_delta_switch", mutates_args=("W",))
def _switch(W: Tensor, index: Tensor, saved: Tensor, index2: Tensor, value2: Tensor) -> Tensor:
    _check_places(W, index)
    _check_places(W, index2)
    _write(W, index, saved)
    return _add(W, index2, value2)


@_apply.register_fake
def _(W: Tensor, index: Tensor, value: Tensor) -> Tensor:
    return value.new_empty(value.shape)


@_undo.register_fake
def _(W: Tensor, index: Tensor, saved: Tensor) -> None:
    return None


@_switch.register_fake
def _(W: Tensor, index: Tensor, saved: Tensor, index2: Tensor, value2: Tensor) -> Tensor:
    return value2.new_empty(value2.shape)


def _add(W: Tensor, index: Tensor, value: Tensor) -> Tensor:
    saved = W.view(-1).index_select(0, index)
    _write(W, index, saved + value)
    return saved


def _write(W: Tensor, index: Tensor, value: Tensor) -> None:
    """W[index] = value by scatter, several times faster on the CPU than brackets; two-byte floats as whole numbers, for
    which it is 100 times faster than for themselves.
    """
    flat = W.view(-1)
    if W.element_size() == 2:
        flat, value = flat.view(torch.int16), value.view(torch.int16)
    flat.scatter_(0, index, value)


def _check(W: Tensor, index: Tensor, value: Tensor) -> None:
    shapes = f"W {tuple(W.shape)}, index {tuple(index.shape)}, value {tuple(value.shape)}"
    if W.dtype not in FLOATS or not W.is_contiguous():
        raise KernelError(f"sparse_delta: {shapes}: W must be floating and contiguous, it is {str(W.dtype)[6:]}")
    if index.dtype != torch.int64 or index.dim() != 1 or index.device != W.device:
        raise KernelError(
            f"sparse_delta: {shapes}: index is {str(index.dtype)[6:]} on {index.device}, and must be int64, flat, on "
            f"{W.device}"
        )
    if value.shape != index.shape or value.dtype != W.dtype or value.device != W.device:
        raise KernelError(
            f"sparse_delta: {shapes}: value is {str(value.dtype)[6:]} on {value.device}, and must be one "
            f"{str(W.dtype)[6:]} for each index, on {W.device}"
        )


def _check_places(W: Tensor, index: Tensor) -> None:
    """Reads the values, so it belongs inside the ops."""
    if index.numel() == 0:
        return
    rising = bool((index[1:] > index[:-1]).all())
    low, high = (int(index[0]), int(index[-1])) if rising else (int(v) for v in torch.aminmax(index))
    if low < 0 or high >= W.numel():
        raise KernelError(f"sparse_delta: index goes from {low} to {high}; W has places 0 … {W.numel() - 1}")
    if not rising and torch.unique(index).numel() < index.numel():
        raise KernelError(
            f"sparse_delta: {index.numel() - torch.unique(index).numel()} of {index.numel()} indices are given twice: "
            "add their values first"
        )
