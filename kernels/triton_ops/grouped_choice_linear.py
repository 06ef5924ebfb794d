"""The kernel of `grouped_choice_linear`: a tile of rows loads its weight through its candidate's choice."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from archrank.kernels.backend import launch_for

__all__ = ["product", "product_kernel"]


@triton.jit
def product_kernel(
    x,
    W,
    choice,
    y,
    rows,
    N,
    K,
    x_p,
    x_m,
    x_k,
    W_c,
    W_n,
    W_k,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """One tile `(BM, BN)` of one candidate's output."""
    p = tl.program_id(2)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    in_m, in_n = m < rows, n < N
    weight = W + tl.load(choice + p) * W_c
    acc = tl.zeros((BM, BN), tl.float32)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        in_k = k < K
        x_tile = tl.load(x + p * x_p + m[:, None] * x_m + k[None, :] * x_k, in_m[:, None] & in_k[None, :], other=0.0)
        W_tile = tl.load(weight + k[:, None] * W_k + n[None, :] * W_n, in_k[:, None] & in_n[None, :], other=0.0)
        acc = tl.dot(x_tile, W_tile, acc, input_precision="ieee")
    tl.store(y + (p * rows + m[:, None]) * N + n[None, :], acc, in_m[:, None] & in_n[None, :])


def product(x: Tensor, weights: Tensor, choice: Tensor) -> Tensor:
    """Y `(P, rows, out)`."""
    P, rows, K = x.shape
    N = weights.shape[1]
    launch = launch_for("grouped_choice_linear", x)
    y = x.new_empty(P, rows, N)
    product_kernel[(triton.cdiv(N, launch.n), triton.cdiv(rows, launch.m), P)](
        x,
        weights,
        choice.contiguous(),
        y,
        rows,
        N,
        K,
        *x.stride(),
        *weights.stride(),
        BM=launch.m,
        BN=launch.n,
        BK=launch.k,
        num_warps=launch.warps,
        num_stages=launch.stages,
    )
    return y
