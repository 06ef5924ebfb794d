"""What every op asks of its arguments, told before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["FLOATS", "KernelError", "check_dims", "check_index", "check_same", "check_size"]

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class KernelError(ValueError):
    """Arguments that an op cannot take."""


def check_dims(op: str, tensors: Mapping[str, Tensor], dims: Mapping[str, int]) -> None:
    """Each tensor has its number of dimensions."""
    for name, count in dims.items():
        if tensors[name].dim() != count:
            raise KernelError(
                f"{op}: {name} has shape {tuple(tensors[name].shape)}, {tensors[name].dim()} dimensions; it has {count}"
            )


def check_same(op: str, tensors: Mapping[str, Tensor]) -> None:
    """One floating dtype and one device for all."""
    (first, one), *rest = tensors.items()
    if one.dtype not in FLOATS:
        allowed = ", ".join(str(d)[6:] for d in FLOATS)
        raise KernelError(f"{op}: {first} of shape {tuple(one.shape)} is {str(one.dtype)[6:]}; allowed: {allowed}")
    for name, tensor in rest:
        if tensor.dtype != one.dtype or tensor.device != one.device:
            raise KernelError(
                f"{op}: {name} {tuple(tensor.shape)} is {str(tensor.dtype)[6:]} on {tensor.device}, {first} "
                f"{tuple(one.shape)} is {str(one.dtype)[6:]} on {one.device}: give both one dtype and one device"
            )


def check_size(op: str, what: str, given: object, wanted: object, why: str) -> None:
    """Two sizes agree; `why` says which other argument fixes the wanted one."""
    if given != wanted:
        raise KernelError(f"{op}: {what} is {given}, and must be {wanted}: {why}")


def check_index(op: str, name: str, index: Tensor, below: int, what: str) -> None:
    """Whole numbers in 0 … below − 1. Reads the values, so it belongs inside a custom op, not in a traced function."""
    if index.numel() == 0:
        return
    low, high = (int(v) for v in torch.aminmax(index))
    if low < 0 or high >= below:
        raise KernelError(
            f"{op}: {name} has values from {low} to {high}, and there are {below} {what}: 0 … {below - 1}"
        )
