"""The orthonormal Walsh–Hadamard transform of the last axis, by dense products of small transforms.

    y = x H_n / √n,   H_{ab} = H_a ⊗ H_b   (Sylvester's order), so with X the row as a matrix (a, b): Y = H_a X H_b

A few GEMMs with matrices of 16 to 64 do what twelve passes of a butterfly do at n = 4096. A length that is no power of
two is transformed in blocks of its largest power-of-two factor (384 = 3 × 128). H is symmetric and its own inverse, so
the gradient is the transform of dy. Used as the basis of QWHA's adapters and of rotations before quantising.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from archrank.kernels.backend import use_triton
from archrank.kernels.checks import FLOATS, KernelError

__all__ = ["walsh_hadamard", "walsh_hadamard_reference"]

LARGEST_FACTOR = 64
CACHED = 1 << 18
"""Numbers that two buffers hold within a core's cache."""
TRITON_SIZES = (256, 4096)
"""Shortest and longest block that the Triton kernel takes: one row is one tile of registers."""


def walsh_hadamard_reference(x: Tensor) -> Tensor:
    """The butterfly: log₂ n passes of sums and differences, in fp32 for narrower dtypes."""
    _check(x)
    n = _block(x.shape[-1])
    y = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(-1, n)
    half = 1
    while half < n:
        pair = y.reshape(len(y), n // (2 * half), 2, half)
        y = torch.stack([pair[:, :, 0] + pair[:, :, 1], pair[:, :, 0] - pair[:, :, 1]], 2).reshape(len(y), n)
        half *= 2
    scaled: Tensor = (y / n**0.5).to(x.dtype).reshape(x.shape)
    return scaled


def walsh_hadamard(x: Tensor) -> Tensor:
    """X `(…, n)`, floating; returns the same shape and dtype.

    KernelError for whole numbers or a tensor without axes.
    """
    _check(x)
    y: Tensor = _transform(x)
    return y


def _check(x: Tensor) -> None:
    if x.dtype not in FLOATS or x.dim() < 1 or x.shape[-1] < 1:
        allowed = ", ".join(str(d)[6:] for d in FLOATS)
        raise KernelError(
            f"walsh_hadamard: x is {str(x.dtype)[6:]} of shape {tuple(x.shape)}; it transforms an axis of at least "
            f"1 of {allowed}"
        )


@torch.library.custom_op("archrank::walsh_hadamard", mutates_args=())
def _transform(x: Tensor) -> Tensor:
    n = _block(x.shape[-1])
    if x.numel() and TRITON_SIZES[0] <= n <= TRITON_SIZES[1] and use_triton("walsh_hadamard", x):
        from archrank.kernels.triton_ops.walsh_hadamard import transform

        return transform(x, n)
    if x.device.type == "cpu":
        return _on_cpu(x, n)
    wide = torch.promote_types(x.dtype, torch.float32)
    y = x.to(wide).reshape(-1, n)
    left = n
    # the axes of the factors in turn: the last one's product is one GEMM, the others' are batched
    while left > 1:
        factor = min(left, LARGEST_FACTOR)
        right = n // left
        H = _sylvester(factor, str(x.device), wide)
        y = y.reshape(-1, factor) @ H if right == 1 else H @ y.reshape(-1, factor, right)
        left //= factor
    y = y.to(x.dtype).reshape(x.shape)
    return y.clone() if n == 1 else y


def _on_cpu(x: Tensor, n: int) -> Tensor:
    """Parts of `CACHED` numbers in turn: H_32 as one GEMM, H_32 (n ≤ 1024) or H_16 as batched ones, then butterflies
    between two buffers. Larger products cost more arithmetic, more butterflies more passes; measured in
    benchmarks/kernels_cpu.py.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    flat, out = x.reshape(-1, n), x.new_empty(x.shape)
    parts = max(1, CACHED // n)
    a = min(n, 32)
    b = min(n // a, 32 if n <= 1024 else 16)
    left, right = (_sylvester(f, "cpu", wide) for f in (b, a))
    right = right / (n // (a * b)) ** 0.5
    steps = (b > 1) + (n // (a * b)).bit_length() - 1
    buffers = torch.empty(1 if x.dtype == wide else 2, min(parts, len(flat)), n, dtype=wide)
    for into, part in zip(out.view(-1, n).split(parts), flat.split(parts), strict=True):  # type: ignore[no-untyped-call]
        one, two = (into if x.dtype == wide else buffers[1][: len(part)], buffers[0][: len(part)])
        last = one
        if steps % 2:
            one, two = two, one
        torch.mm(part.reshape(-1, a).to(wide), right, out=one.view(-1, a))
        if b > 1:
            torch.matmul(left, one.view(-1, b, a), out=two.view(-1, b, a))
            one, two = two, one
        half = a * b
        while half < n:
            pair, told = (t.view(len(part), n // (2 * half), 2, half) for t in (one, two))
            torch.add(pair[:, :, 0], pair[:, :, 1], out=told[:, :, 0])
            torch.sub(pair[:, :, 0], pair[:, :, 1], out=told[:, :, 1])
            one, two, half = two, one, 2 * half
        if last is not into:
            into.copy_(last)
    return out


@_transform.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _block(n: int) -> int:
    """The largest power of two that divides n."""
    return n & -n


@lru_cache(maxsize=32)
def _sylvester(n: int, device: str, dtype: torch.dtype) -> Tensor:
    """H_n / √n."""
    H = torch.ones(1, 1, dtype=torch.float64)
    while len(H) < n:
        H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)])
    scaled: Tensor = (H / n**0.5).to(device, dtype)
    return scaled


def _gradients(ctx: torch.autograd.function.FunctionCtx, dy: Tensor) -> Tensor:
    dx: Tensor = _transform(dy)
    return dx


torch.library.register_autograd("archrank::walsh_hadamard", _gradients)
