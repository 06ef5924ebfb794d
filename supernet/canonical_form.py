"""Any low-rank product as a sorted prefix store: QR of both factors and an SVD of the small core.

    B = Q_B R_B, Aᵀ = Q_A R_A, R_B R_Aᵀ = U S Vᵀ  ⇒  B' = Q_B U S^½, A' = S^½ Vᵀ Q_Aᵀ

B' A' = B A exactly (to round-off), the columns of B' and the rows of A' are orthogonal and the component sizes
‖b_j‖ ‖a_j‖ are the singular values in descending order, so the first r components are the best approximation of rank r
in the Frobenius norm (Eckart and Young 1936). Costs O((in + out) R²) and never forms the product. It rotates the basis:
Adam's moments do not survive it, so it stands between phases and never inside a training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["canonical", "canonical_for", "compact", "finite", "numerical_rank", "singular_values"]

ROUND_OFF = 4 * torch.finfo(torch.float32).eps
"""A tail of the spectrum whose norm is below this share of the product's is what fp32 factors cannot tell from zero."""


def canonical(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """(A', B') of the same product, canonical as above.

    Shapes: A `(R, in)`, B `(out, R)` with any R; the result has min(R, in, out) components, in the factors' dtypes.
    ValueError where the inner sizes differ or a value is not finite.
    """
    U, S, V, QA, QB = _parts(A, B)
    top = min(len(S), A.shape[1], B.shape[0])
    U, S, V = U[:, :top], S[:top], V[:, :top]
    root = S.sqrt()
    return ((V * root).T @ QA.T).to(A.dtype), (QB @ (U * root)).to(B.dtype)


def canonical_for(A: Tensor, B: Tensor, second_moment: Tensor) -> tuple[Tensor, Tensor]:
    """(A', B') of the same product whose prefixes minimise E‖(ΔW − ΔW_r) x‖² for inputs x.

    second_moment: C = E[x xᵀ] `(in, in)`. With C = L Lᵀ the canonical form of B (A L) is taken, and A' = Vᵀ L⁻¹ carries
    it back (as in ASVD and SVD-LLM, which factorise whole weights so). Directions that no input has are given
    10⁻⁶ of the mean second moment, which keeps L invertible.
    """
    C = second_moment.double()
    if C.shape != (A.shape[1], A.shape[1]):
        raise ValueError(f"a second moment {tuple(C.shape)} for {A.shape[1]} inputs: it must be (in, in)")
    ridge = 1e-6 * float(C.diagonal().mean().clamp(min=1e-30))
    L = torch.linalg.cholesky(C + ridge * torch.eye(len(C), dtype=C.dtype, device=C.device))
    a, b = canonical(A.double() @ L, B.double())
    return torch.linalg.solve_triangular(L, a, upper=False, left=False).to(A.dtype), b.to(B.dtype)


def singular_values(A: Tensor, B: Tensor) -> Tensor:
    """`(min(R, in, out),)` singular values of B A in descending order, in fp64."""
    return _parts(A, B)[1]


def numerical_rank(S: Tensor) -> int:
    """The least r with ‖σ_{r+1…}‖ <= ROUND_OFF · ‖σ‖: 3 for a product of rank 3 that is stored at rank 16 in fp32."""
    tails = S.flip(0).square().cumsum(0).flip(0).sqrt()
    return int((tails > ROUND_OFF * tails[:1]).sum())


def compact(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """The canonical form without the components that are round-off: as many as the product's numerical rank."""
    a, b = canonical(A, B)
    rank = numerical_rank(singular_values(A, B))
    return a[:rank], b[:, :rank]


def finite(t: Tensor) -> bool:
    """Whether no value is NaN or infinite: one sum in fp64, which either would spoil."""
    return bool(t.detach().sum(dtype=torch.float64).isfinite())


def _parts(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """U, S, V of the core and the two orthonormal bases, in fp64: in fp32 small singular values drown."""
    if A.dim() != 2 or B.dim() != 2 or len(A) != B.shape[1]:
        raise ValueError(f"A {tuple(A.shape)} and B {tuple(B.shape)} have no product B A: A is (R, in) and B (out, R)")
    if not (A.is_floating_point() and B.is_floating_point()):
        raise ValueError(f"A is {A.dtype} and B {B.dtype}: the canonical form is one of floating-point factors")
    a, b = A.detach().double(), B.detach().double()
    if not (finite(a) and finite(b)):
        raise ValueError("the factors hold NaN or infinite values")
    with _one_thread():
        QB, RB = torch.linalg.qr(b)
        QA, RA = torch.linalg.qr(a.T)
        U, S, Vh = torch.linalg.svd(RB @ RA.T, full_matrices=False)
    return U, S, Vh.T, QA, QB


@contextmanager
def _one_thread() -> Iterator[None]:
    """On matrices this narrow threads gain nothing, and on busy cores they wait for each other for seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
