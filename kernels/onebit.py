"""One bit a number and one scale a row: a storage format.

    x ≈ sign(x) · mean_j |x_j|   (sign 0 is +)

the least-squares scale for a row of signs (XNOR-Net, Rastegari et al., ECCV 2016, eq. 6). Unpack once and keep the
result: unpacking costs more than the product that it feeds, so this is not a way to compute faster.
"""

from __future__ import annotations

import torch
from torch import Tensor

from archrank.kernels.checks import FLOATS, KernelError

__all__ = ["onebit_pack", "onebit_unpack"]


def onebit_pack(x: Tensor) -> tuple[Tensor, Tensor, int, torch.dtype]:
    """(bits `(…, ⌈n/8⌉)` uint8, first number in the lowest bit; scale `(…, 1)` fp32; n; x's dtype) of x `(…, n)`.

    KernelError for whole numbers or a tensor without axes.
    """
    if x.dtype not in FLOATS or x.dim() < 1:
        allowed = ", ".join(str(d)[6:] for d in FLOATS)
        raise KernelError(f"onebit_pack: x is {str(x.dtype)[6:]} of shape {tuple(x.shape)}; it packs rows of {allowed}")
    bits, scale = _pack(x)
    return bits, scale, x.shape[-1], x.dtype


def onebit_unpack(bits: Tensor, scale: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """`(…, n)` of `dtype`: plus or minus the row's scale. KernelError where the parts do not belong together."""
    if bits.dtype != torch.uint8 or bits.shape[:-1] != scale.shape[:-1] or bits.shape[-1] != (n + 7) // 8:
        raise KernelError(
            f"onebit_unpack: bits {tuple(bits.shape)} {str(bits.dtype)[6:]} and scale {tuple(scale.shape)}, n = {n}: "
            f"bits are uint8 with {(n + 7) // 8} a row and one scale"
        )
    if scale.dtype != torch.float32 or scale.device != bits.device or scale.shape[-1:] != (1,) or dtype not in FLOATS:
        raise KernelError(
            f"onebit_unpack: scale {tuple(scale.shape)} is {str(scale.dtype)[6:]} on {scale.device}, dtype "
            f"{str(dtype)[6:]}; one float32 a row beside the bits, and a floating dtype"
        )
    x: Tensor = _unpack(bits, scale, n, dtype)
    return x


@torch.library.custom_op("archrank::onebit_pack", mutates_args=())
def _pack(x: Tensor) -> tuple[Tensor, Tensor]:
    n, rows = x.shape[-1], x.shape[:-1]
    scale = x.float().abs().sum(-1, keepdim=True) / max(1, n)
    padded = torch.zeros(*rows, (n + 7) // 8 * 8, dtype=torch.uint8, device=x.device)
    padded[..., :n] = x >= 0
    places = 1 << torch.arange(8, dtype=torch.uint8, device=x.device)
    return (padded.view(*rows, (n + 7) // 8, 8) * places).sum(-1, dtype=torch.uint8), scale


@_pack.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    bits = x.new_empty((*x.shape[:-1], (x.shape[-1] + 7) // 8), dtype=torch.uint8)
    return bits, x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)


@torch.library.custom_op("archrank::onebit_unpack", mutates_args=())
def _unpack(bits: Tensor, scale: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    signs = ((bits[..., None] >> places) & 1).flatten(-2)[..., :n].bool()
    return torch.where(signs, scale, -scale).to(dtype)


@_unpack.register_fake
def _(bits: Tensor, scale: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    return bits.new_empty((*bits.shape[:-1], n), dtype=dtype)


def _scale_gradient(ctx: torch.autograd.function.FunctionCtx, dx: Tensor) -> tuple[None, Tensor, None, None]:
    """Of the scale: Σ_j sign_j dx_j."""
    bits, n = ctx.saved_tensors[0], dx.shape[-1]  # type: ignore[attr-defined]
    one = torch.ones((*bits.shape[:-1], 1), device=bits.device)
    return None, (dx.float() * _unpack(bits, one, n, torch.float32)).sum(-1, keepdim=True), None, None


def _setup(
    ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Tensor, int, torch.dtype], output: Tensor
) -> None:
    ctx.save_for_backward(inputs[0])


torch.library.register_autograd("archrank::onebit_unpack", _scale_gradient, setup_context=_setup)
