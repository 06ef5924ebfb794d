"""Two kernels of `gated_lora`: the gated shrink, and dh, dB and u ∘ h from one read of dy.

The rank is padded to a power of two of at least 16 (tensor cores take no less) and masked inside; fp32 products are
IEEE, not TF32. Every reduction over rows is split into planes that are summed in a fixed order, never by atomics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from archrank.kernels.backend import launch_for

__all__ = ["backward", "backward_kernel", "shrink", "shrink_kernel"]


@triton.jit
def shrink_kernel(
    x,
    A,
    G,
    row,
    h,
    gated,
    M,
    K,
    R,
    x_m,
    x_k,
    A_r,
    A_k,
    G_p,
    G_r,
    BM: tl.constexpr,
    BK: tl.constexpr,
    BR: tl.constexpr,
):
    """One block of rows: h = x Aᵀ, h̃ = h ∘ G[row]."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    r = tl.arange(0, BR)
    in_m, in_r = m < M, r < R
    acc = tl.zeros((BM, BR), tl.float32)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        in_k = k < K
        x_tile = tl.load(x + m[:, None] * x_m + k[None, :] * x_k, in_m[:, None] & in_k[None, :], other=0.0)
        A_tile = tl.load(A + k[:, None] * A_k + r[None, :] * A_r, in_k[:, None] & in_r[None, :], other=0.0)
        acc = tl.dot(x_tile, A_tile, acc, input_precision="ieee")
    candidate = tl.load(row + m, in_m, other=0)
    inside = in_m[:, None] & in_r[None, :]
    gate = tl.load(G + candidate[:, None] * G_p + r[None, :] * G_r, inside, other=0.0).to(tl.float32)
    at = m[:, None] * R + r[None, :]
    tl.store(h + at, acc, inside)
    tl.store(gated + at, acc * gate, inside)


@triton.jit
def backward_kernel(
    dy,
    B,
    G,
    row,
    h,
    dh,
    weighed,
    planes,
    M,
    N,
    R,
    blocks,
    B_n,
    B_r,
    G_p,
    G_r,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BR: tl.constexpr,
):
    """One plane: some blocks of rows in turn; u = dy B, dh = u ∘ G[row], u ∘ h, and the plane's share of dyᵀ h̃."""
    plane = tl.program_id(0)
    r = tl.arange(0, BR)
    in_r = r < R
    for block in range(blocks):
        m = (plane * blocks + block) * BM + tl.arange(0, BM)
        in_m = m < M
        inside = in_m[:, None] & in_r[None, :]
        at = m[:, None] * R + r[None, :]
        candidate = tl.load(row + m, in_m, other=0)
        gate = tl.load(G + candidate[:, None] * G_p + r[None, :] * G_r, inside, other=0.0).to(tl.float32)
        h_tile = tl.load(h + at, inside, other=0.0).to(tl.float32)
        gated = (h_tile * gate).to(dy.dtype.element_ty)
        u = tl.zeros((BM, BR), tl.float32)
        for start in range(0, N, BN):
            n = start + tl.arange(0, BN)
            in_n = n < N
            dy_tile = tl.load(dy + m[:, None] * N + n[None, :], in_m[:, None] & in_n[None, :], other=0.0)
            of_n = in_n[:, None] & in_r[None, :]
            B_tile = tl.load(B + n[:, None] * B_n + r[None, :] * B_r, of_n, other=0.0)
            u = tl.dot(dy_tile, B_tile, u, input_precision="ieee")
            # the plane is this program's alone: adding to it in turn needs no atomics
            there = planes + (plane * N + n[:, None]) * R + r[None, :]
            before = tl.load(there, of_n & (block > 0), other=0.0)
            tl.store(there, tl.dot(tl.trans(dy_tile), gated, before, input_precision="ieee"), of_n)
        tl.store(dh + at, u * gate, inside)
        tl.store(weighed + at, u * h_tile, inside)


def shrink(x: Tensor, A: Tensor, G: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """(h, h̃), each `(rows, R)` in x's dtype."""
    (M, K), R = x.shape, len(A)
    launch = launch_for("gated_shrink", x)
    h, gated = x.new_empty(M, R), x.new_empty(M, R)
    shrink_kernel[(triton.cdiv(M, launch.m),)](
        x,
        A,
        G,
        row.contiguous(),
        h,
        gated,
        M,
        K,
        R,
        *x.stride(),
        *A.stride(),
        *G.stride(),
        BM=launch.m,
        BK=launch.k,
        BR=padded(R),
        num_warps=launch.warps,
        num_stages=launch.stages,
    )
    return h, gated


def backward(dy: Tensor, B: Tensor, G: Tensor, row: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(dh `(rows, R)`, dB `(out, R)`, u ∘ h `(rows, R)` in fp32)."""
    (M, N), R = dy.shape, B.shape[1]
    launch = launch_for("gated_backward", dy)
    tiles = triton.cdiv(M, launch.m)
    blocks = triton.cdiv(tiles, min(launch.planes, tiles))
    count = triton.cdiv(tiles, blocks)
    dh = dy.new_empty(M, R)
    weighed = torch.empty(M, R, dtype=torch.float32, device=dy.device)
    planes = torch.empty(count, N, R, dtype=torch.float32, device=dy.device)
    backward_kernel[(count,)](
        dy,
        B,
        G,
        row.contiguous(),
        h.contiguous(),
        dh,
        weighed,
        planes,
        M,
        N,
        R,
        blocks,
        *B.stride(),
        *G.stride(),
        BM=launch.m,
        BN=launch.n,
        BR=padded(R),
        num_warps=launch.warps,
        num_stages=launch.stages,
    )
    return dh, planes.sum(0).to(B.dtype), weighed


def padded(rank: int) -> int:
    """The tile that holds a rank: a power of two, at least 16."""
    return max(16, int(triton.next_power_of_2(rank)))
