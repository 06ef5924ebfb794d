"""The low-rank branch against its formula, forward and every gradient, and against plain slices."""

from __future__ import annotations

import pytest
import torch

from archrank import kernels

SHAPES = [(1, (), 1, 1, 1), (3, (5,), 7, 2, 4), (4, (2, 3), 8, 8, 8), (2, (17,), 33, 5, 19)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spectrum", ["none", "shared", "per_sample"])
def test_equals_its_reference_with_every_gradient(
    shape: tuple[int, tuple[int, ...], int, int, int], spectrum: str
) -> None:
    n, inner, k, r, o = shape
    g = torch.Generator().manual_seed(0)
    rand = lambda *s: torch.randn(*s, generator=g, dtype=torch.float64, requires_grad=True)  # noqa: E731
    x, A, B = rand(n, *inner, k), rand(r, k), rand(o, r)
    c = {"none": None, "shared": rand(1, r), "per_sample": rand(n, r)}[spectrum]
    inputs = [t for t in (x, A, B, c) if t is not None]
    y, truth = kernels.spectral_lora(x, A, B, c), kernels.spectral_lora_reference(x, A, B, c)
    torch.testing.assert_close(y, truth)
    weights = torch.randn(y.shape, generator=g, dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad((y * weights).sum(), inputs),
        torch.autograd.grad((truth * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_mask_per_sample_equals_slices() -> None:
    g = torch.Generator().manual_seed(1)
    x, A, B = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((3, 4, 6), (5, 6), (7, 5)))
    ranks = [0, 2, 5]
    c = (torch.arange(5) < torch.tensor(ranks)[:, None]).double()
    y = kernels.spectral_lora(x, A, B, c)
    for i, r in enumerate(ranks):
        assert float((y[i] - x[i] @ A[:r].T @ B[:, :r].T).abs().max()) < 1e-12
    assert not y[0].any()


def test_frozen_gradients_are_those_of_the_detached_form() -> None:
    """Valipour et al.'s code: rows before b detached, in fp64; with a b of its own for each sample."""
    g = torch.Generator().manual_seed(0)
    x, A, B = (
        torch.randn(*s, generator=g, dtype=torch.float64).requires_grad_() for s in ((5, 3, 16), (8, 16), (24, 8))
    )
    b = torch.tensor([1, 3, 8, 5, 2])
    c = (torch.arange(8) < b[:, None]).double()
    w = (torch.arange(8) == b[:, None] - 1).double()
    out = []
    for i, r in enumerate(b.tolist()):
        a = torch.cat([A[: r - 1].detach(), A[r - 1 : r]])
        columns = torch.cat([B[:, : r - 1].detach(), B[:, r - 1 : r]], dim=1)
        out.append(x[i] @ a.T @ columns.T)
    slope = torch.randn(5, 3, 24, generator=g, dtype=torch.float64)
    wanted = torch.autograd.grad((torch.stack(out) * slope).sum(), [x, A, B])
    for op in (kernels.masked_lora, kernels.masked_lora_reference):
        y = op(x, A, B, c, w)
        torch.testing.assert_close(y, torch.stack(out), atol=1e-12, rtol=0)
        for got, want in zip(torch.autograd.grad((y * slope).sum(), [x, A, B]), wanted, strict=True):
            torch.testing.assert_close(got, want, atol=1e-11, rtol=0)


def test_a_spectrum_for_another_batch_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"spectrum for 2 samples met an input of 6 rows.*leave it out of --target-modules"
    ):
        kernels.spectral_lora(torch.zeros(6, 4), torch.zeros(2, 4), torch.zeros(3, 2), torch.ones(2, 2))


def test_an_unknown_op_is_named() -> None:
    with pytest.raises(AttributeError, match=r"archrank.kernels has no op 'nope'"):
        kernels.nope  # noqa: B018
