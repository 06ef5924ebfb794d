"""Gated LoRA: the reference, the op and its Triton kernels against fp64, in every size, stride and dtype."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from archrank import kernels
from archrank.kernels.backend import use_triton

ROUNDINGS = 8


@dataclass
class Case:
    x: Tensor
    W: Tensor
    A: Tensor
    B: Tensor
    G: Tensor
    row: Tensor

    def run(self, name: str) -> list[Tensor]:
        """Output and gradients of x, A, B, G under one fixed cotangent."""
        x, A, B, G = (t.detach().requires_grad_() for t in (self.x, self.A, self.B, self.G))
        y = getattr(kernels, name)(x, self.W, A, B, G, self.row)
        return [y.detach(), *torch.autograd.grad(y, (x, A, B, G), cotangent(y))]

    def exact(self) -> tuple[list[Tensor], list[Tensor]]:
        """The same in fp64, and the sum of the sizes of the terms of each number."""
        told = []
        for f in (lambda t: t.double(), lambda t: t.double().abs()):
            x, W, A, B, G = (f(t).detach() for t in (self.x, self.W, self.A, self.B, self.G))
            for t in (x, A, B, G):
                t.requires_grad_()
            y = x @ W.T + ((x @ A.T) * G[self.row]) @ B.T
            up = f(cotangent(y.to(self.x.dtype)))
            told.append([y.detach(), *torch.autograd.grad(y, (x, A, B, G), up)])
        return told[0], told[1]


def cotangent(y: Tensor) -> Tensor:
    return torch.cos(torch.arange(y.numel())).reshape(y.shape).to(y.dtype)


def make(
    M: int, K: int, N: int, R: int, P: int, dtype: torch.dtype = torch.float32, seed: int = 0, strided: bool = False
) -> Case:
    g = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        t = torch.randn(*shape, generator=g).to(dtype)
        # the same values with NaN in between: a kernel that reads past its strides shows
        return torch.stack([t, torch.full_like(t, float("nan"))], -1)[..., 0] if strided else t

    ranks = torch.randint(0, R + 1, (P, 1), generator=g)
    G = torch.rand(P, R, generator=g) * (torch.arange(R) < ranks)
    return Case(rand(M, K), rand(N, K), rand(R, K), rand(N, R), G, torch.randint(0, P, (M,), generator=g))


def check(case: Case, name: str) -> None:
    """|error| ≤ 8 eps × the sum of the sizes of the terms, number by number: cancellation is no error."""
    exact, sizes = case.exact()
    for what, got, truth, size in zip(("y", "dx", "dA", "dB", "dG"), case.run(name), exact, sizes, strict=True):
        assert got.shape == truth.shape, what
        eps = max(torch.finfo(case.x.dtype).eps, torch.finfo(got.dtype).eps)
        assert torch.isfinite(got).all(), f"{what} is not finite"
        assert bool(((got.double() - truth).abs() <= ROUNDINGS * eps * size + 1e-30).all()), what


SHAPES = [
    (1, 1, 1, 1, 1),
    (5, 7, 3, 2, 2),
    (37, 65, 129, 5, 3),
    (64, 48, 80, 16, 7),
    (0, 8, 8, 4, 2),
    (9, 33, 17, 0, 2),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("name", ["gated_lora", "gated_lora_reference"])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strided", [False, True])
def test_equals_fp64(name: str, dtype: torch.dtype, shape: tuple[int, int, int, int, int], strided: bool) -> None:
    check(make(*shape, dtype=dtype, strided=strided), name)


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, (130, 20, 70, 33, 4)])
@pytest.mark.parametrize("strided", [False, True])
def test_triton_equals_fp64(dtype: torch.dtype, shape: tuple[int, int, int, int, int], strided: bool) -> None:
    case = make(*shape, dtype=dtype, strided=strided)
    assert use_triton("gated_lora", case.x, case.A, case.G)
    check(case, "gated_lora")


sizes = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(1, 5))


@given(shape=sizes, seed=st.integers(0, 99), dtype=st.sampled_from(DTYPES), strided=st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_size(shape: tuple[int, int, int, int, int], seed: int, dtype: torch.dtype, strided: bool) -> None:
    check(make(*shape, dtype=dtype, seed=seed, strided=strided), "gated_lora")


@pytest.mark.usefixtures("interpreter")
@given(shape=sizes, seed=st.integers(0, 99), dtype=st.sampled_from(DTYPES), strided=st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_triton_any_size(shape: tuple[int, int, int, int, int], seed: int, dtype: torch.dtype, strided: bool) -> None:
    check(make(*shape, dtype=dtype, seed=seed, strided=strided), "gated_lora")


@pytest.mark.usefixtures("interpreter")
def test_the_kernels_write_nothing_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every new tensor lies between NaN margins here, which must still be NaN afterwards."""
    margins: list[Tensor] = []
    plain = torch.Tensor.new_empty

    def guarded(self: Tensor, *size: int, **options: object) -> Tensor:
        if options:  # the interpreter's own
            return plain(self, *size, **options)  # type: ignore[call-overload, no-any-return]
        shape = torch.Size(size[0] if len(size) == 1 and not isinstance(size[0], int) else size)
        held = plain(self, (shape.numel() + 128,)).fill_(float("nan"))
        margins.extend([held[:64], held[-64:]])
        return held[64:-64].view(shape)

    case = make(37, 20, 29, 5, 3)
    from archrank.kernels.triton_ops import gated_lora as ops

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "new_empty", guarded)
        h, gated = ops.shrink(case.x, case.A, case.G, case.row)
        dh, _, _ = ops.backward(torch.ones(37, 29), case.B, case.G, case.row, h)
    assert len(margins) >= 6
    assert all(torch.isnan(m).all() for m in margins)
    assert torch.isfinite(torch.cat([h, gated, dh])).all()


@pytest.mark.parametrize("triton", [False, True])
def test_rows_of_rank_0_have_the_bases_bits(triton: bool, request: pytest.FixtureRequest) -> None:
    if triton:
        request.getfixturevalue("interpreter")
    for dtype in DTYPES:
        case = make(37, 33, 17, 6, 5, dtype=dtype)
        case.G[2] = 0
        case.row[3:9] = 2
        y = kernels.gated_lora(case.x, case.W, case.A, case.B, case.G, case.row)
        bare = kernels.gated_lora(case.x, case.W, 3 * case.A, -case.B, case.G * 0, case.row)
        assert torch.equal(y[case.row == 2], bare[case.row == 2])
        assert torch.equal(bare, case.x @ case.W.T)


@pytest.mark.parametrize("triton", [False, True])
def test_permuted_and_split_populations(triton: bool, request: pytest.FixtureRequest) -> None:
    if triton:
        request.getfixturevalue("interpreter")
    case = make(48, 20, 24, 6, 5)
    y = kernels.gated_lora(case.x, case.W, case.A, case.B, case.G, case.row)
    turn = torch.tensor([3, 0, 4, 1, 2])
    back = torch.argsort(turn)
    turned = kernels.gated_lora(case.x, case.W, case.A, case.B, case.G[turn], back[case.row])
    torch.testing.assert_close(turned, y)
    halves = [
        kernels.gated_lora(case.x[part], case.W, case.A, case.B, case.G, case.row[part])
        for part in (slice(0, 17), slice(17, 48))
    ]
    torch.testing.assert_close(torch.cat(halves), y)
    stacked = kernels.gated_lora(
        case.x,
        case.W,
        torch.cat([case.A, 2 * case.A]),
        torch.cat([case.B, case.B], 1),
        torch.cat([case.G, case.G / 2], 1),
        case.row,
    )
    torch.testing.assert_close(stacked, 2 * y - case.x @ case.W.T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("triton", [False, True])
def test_two_runs_have_the_same_bits(triton: bool, request: pytest.FixtureRequest) -> None:
    if triton:
        request.getfixturevalue("interpreter")
    case = make(130, 40, 40, 6, 3)
    assert all(map(torch.equal, case.run("gated_lora"), case.run("gated_lora")))


def test_gradcheck() -> None:
    g = torch.Generator().manual_seed(0)
    x, W, A, B, G = (
        torch.randn(*s, generator=g, dtype=torch.float64, requires_grad=True)
        for s in ((6, 4), (3, 4), (2, 4), (3, 2), (3, 2))
    )
    row = torch.tensor([0, 1, 2, 2, 1, 0])
    assert torch.autograd.gradcheck(lambda *a: kernels.gated_lora(*a, row), (x, W, A, B, G))


def test_opcheck_export_and_compile() -> None:
    case = make(12, 16, 8, 4, 3)
    args = (case.x, case.W, case.A, case.B, case.G, case.row)
    tensors = tuple(t.requires_grad_(t.is_floating_point()) for t in (t.clone() for t in args))
    want = kernels.gated_lora_reference(*args)  # the file's ops exist once it is loaded
    torch.library.opcheck(torch.ops.archrank.gated_lora.default, tensors)

    class Layer(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return kernels.gated_lora(*inputs)

    exported = torch.export.export(Layer(), args).module()
    torch.testing.assert_close(exported(*args), want)
    compiled = torch.compile(kernels.gated_lora, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*args), want)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"G": torch.ones(3, 5)}, r"the width of G is 5, and must be 4: A has 4 components"),
        ({"B": torch.ones(5, 6)}, r"the shape of B is \(5, 6\), and must be \(5, 4\)"),
        ({"x": torch.ones(6, 7)}, r"the width of x is 7, and must be 8: W is \(5, 8\)"),
        ({"A": torch.ones(4, 9)}, r"the width of A is 9, and must be 8"),
        ({"row": torch.full((6,), 3)}, r"row_candidate has values from 3 to 3, and there are 3 rows of G: 0 … 2"),
        ({"row": torch.full((6,), -1)}, r"row_candidate has values from -1 to -1"),
        ({"row": torch.zeros(5, dtype=torch.int64)}, r"length of row_candidate is 5, and must be 6: x has 6 rows"),
        ({"row": torch.zeros(6)}, r"row_candidate \(6,\) is float32 on cpu; it names a row of G.*int32 or int64"),
        ({"x": torch.ones(6, 8).bfloat16()}, r"W \(5, 8\) is float32 on cpu, x \(6, 8\) is bfloat16.*one dtype"),
        ({"x": torch.ones(6, 8).long()}, r"x of shape \(6, 8\) is int64; allowed: float16, bfloat16, float32, float64"),
        ({"x": torch.ones(2, 3, 8)}, r"x has shape \(2, 3, 8\), 3 dimensions; it has 2"),
        ({"G": torch.ones(3, 4).half()}, r"G \(3, 4\) is float16 on cpu; allowed: float32 or x's float32"),
    ],
)
def test_bad_arguments_are_told(change: dict[str, Tensor], says: str) -> None:
    case = make(6, 8, 5, 4, 3)
    for name, value in change.items():
        setattr(case, name, value)
    for op in (kernels.gated_lora, kernels.gated_lora_reference):
        with pytest.raises(ValueError, match=says):
            op(case.x, case.W, case.A, case.B, case.G, case.row)


def test_a_large_rank_runs_without_the_kernel() -> None:
    check(make(9, 140, 140, 135, 2), "gated_lora")
