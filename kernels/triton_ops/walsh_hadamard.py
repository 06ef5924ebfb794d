"""The kernel of `walsh_hadamard`: a row is read once, as a matrix (a, b), and two products make H_a X H_b."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from archrank.kernels.backend import launch_for

__all__ = ["transform", "transform_kernel"]


@triton.jit
def signs(n: tl.constexpr):
    """H_n as ±1 in fp32: the parity of the bits that row and column share."""
    i = tl.arange(0, n)
    shared = i[:, None] & i[None, :]
    shared ^= shared >> 4
    shared ^= shared >> 2
    shared ^= shared >> 1
    return 1.0 - 2.0 * (shared & 1).to(tl.float32)


@triton.jit
def transform_kernel(x, y, scale, a: tl.constexpr, b: tl.constexpr):
    """One row of a · b numbers; ±1 is exact in every dtype, and the scale comes last, in fp32."""
    at = tl.program_id(0) * (a * b) + tl.arange(0, a)[:, None] * b + tl.arange(0, b)[None, :]
    X = tl.load(x + at)
    dtype: tl.constexpr = x.dtype.element_ty
    half = tl.dot(signs(a).to(dtype), X, input_precision="ieee") * (1.0 / a)
    tl.store(y + at, tl.dot(half.to(dtype), signs(b).to(dtype), input_precision="ieee") * scale)


def transform(x: Tensor, n: int) -> Tensor:
    """Blocks of n = a · b numbers, a and b powers of two of at least 16 and at most 64."""
    a = 1 << ((n.bit_length() - 1) // 2)
    b = n // a
    rows = x.contiguous()
    y = rows.new_empty(rows.shape)
    launch = launch_for("walsh_hadamard", x)
    transform_kernel[(rows.numel() // n,)](rows, y, a / n**0.5, a=a, b=b, num_warps=launch.warps, num_stages=1)
    return y
