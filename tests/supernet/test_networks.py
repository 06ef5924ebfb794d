"""Architectures as torch modules: shapes, parameters and FLOPs are what the closed forms say, and they run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from archrank import grammar, spaces, supernet
from archrank.grammar import ops, user_ops
from archrank.grammar.signatures import AdapterOp, Op, Structure, same
from archrank.supernet import builders
from archrank.supernet.networks import BuildError

SPACES = {
    "einspace 3x64x64": ("einspace", (3, 64, 64), 60),
    "einspace 3x32x32": ("einspace", (3, 32, 32), 60),
    "einspace_1d 128x16": ("einspace_1d", (128, 16), 60),
    "einspace_1d 50x3": ("einspace_1d", (50, 3), 30),
    "nasbench201": ("nasbench201", (3, 16, 16), 4),
    "mobilenetv3": ("mobilenetv3", (3, 48, 64), 4),
    "gpt2_elastic": ("gpt2_elastic", (12,), 2),
}


def drawn_input(shape: tuple[int, ...], batch: int = 2) -> Tensor:
    return torch.randint(0, 100, (batch, *shape)) if len(shape) == 1 else torch.randn(batch, *shape)


def check_against_torch(architecture: grammar.Architecture, batch: int = 2) -> None:
    model = supernet.build(architecture, seed=0).train()
    x = drawn_input(architecture.input, batch)
    with FlopCounterMode(display=False) as counter:
        y = model(x)
    assert tuple(y.shape) == (batch, *architecture.shape)
    assert sum(p.numel() for p in model.parameters()) == architecture.params
    assert counter.get_total_flops() == batch * architecture.flops == architecture.workload(batch).flops
    if y.requires_grad:
        y.float().square().mean().backward()
        assert all(p.grad is not None for p in model.parameters())


@pytest.fixture
def attention_is_counted() -> object:
    """The counter of torch leaves out the CPU's fused attention kernel; the plain products are counted."""
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        yield


@pytest.mark.usefixtures("attention_is_counted")
@pytest.mark.parametrize("case", SPACES)
def test_samples_are_what_their_closed_forms_say(case: str) -> None:
    name, shape, count = SPACES[case]
    space = spaces.load(name).with_input(shape).within(flops=(None, 2e10), activation_bytes=(None, 2**22))
    for d in space.sample(np.random.default_rng(3), count):
        check_against_torch(space.elaborate(d))


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in SPACES if case.startswith("einspace")])
def test_a_thousand_samples_run_forward_and_backward(case: str) -> None:
    name, shape, _ = SPACES[case]
    space = spaces.load(name).with_input(shape).within(flops=(None, 2e9), activation_bytes=(None, 2**22))
    for d in space.sample(np.random.default_rng(4), 334):
        check_against_torch(space.elaborate(d))


def test_every_shipped_op_has_a_torch_module() -> None:
    """But identities, splits that copy nothing, structures, and layers of a pretrained encoder, whose module is the
    base itself.
    """
    wanted = {name for name in ops.shipped() if not isinstance(ops.load(name), Structure | AdapterOp)}
    assert wanted - set(builders.available()) == {"id", "clone", "drop", "keep"}
    assert set(builders.available()) <= wanted


def test_windows_linear_image_is_one_convolution_with_the_same_weights() -> None:
    space = spaces.load("einspace")
    fused = space.elaborate(space.parse("route(im2col(3,2,1),linear(16),col2im)"), input=(3, 17, 20))
    assert fused.convolutions == ((0, 1, 2),)
    x = torch.randn(2, 3, 17, 20)
    model = supernet.build(fused, seed=1)
    rows = nn.functional.unfold(x, 3, stride=2, padding=1).transpose(1, 2)
    linear = model.ops[1]
    expected = nn.functional.linear(rows, linear.weight, linear.bias).transpose(1, 2).reshape(2, 16, 9, 10)
    torch.testing.assert_close(model(x), expected)
    (conv,) = fused.workload(2).ops
    assert (conv.op, conv.dim("kernel"), conv.dim("stride"), conv.flops) == ("conv2d", 3, 2, 2 * fused.flops)


def test_windows_that_something_else_reads_stay_windows() -> None:
    space = spaces.load("einspace")
    text = "route(im2col(3,1,1),branch2(clone,linear(32),linear(32),add),col2im)"
    arch = space.elaborate(space.parse(text), input=(3, 8, 8))
    assert arch.convolutions == ()
    check_against_torch(arch)


def test_the_seed_decides_the_weights_and_leaves_torch_alone() -> None:
    space = spaces.load("einspace")
    arch = space.elaborate(space.parse("seq(linear(16),pos_enc)"))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c = (supernet.build(arch, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


def test_values_are_let_go_after_their_last_use() -> None:
    space = spaces.load("einspace")
    text = "seq(norm,seq(branch2(clone,norm,seq(leaky_relu,norm),add),branch4(group(1),linear(16),concat(1))))"
    network = supernet.build(space.elaborate(space.parse(text.replace("group(1)", "clone"))), seed=0)
    alive: set[int] = {-1}
    for index, _, reads, done in network._steps:
        assert set(reads) <= alive
        alive = (alive | {index}) - set(done)
    assert alive == {network.architecture.output}


def test_an_input_of_another_shape_is_refused() -> None:
    space = spaces.load("einspace")
    model = supernet.build(space.elaborate(space.parse("seq(norm,norm)")))
    with pytest.raises(ValueError, match=r"built for inputs of shape \(batch, 3, 64, 64\), not \(2, 3, 32, 32\)"):
        model(torch.randn(2, 3, 32, 32))


def test_the_input_alone_is_an_architecture() -> None:
    space = spaces.load("einspace")
    arch = space.elaborate(space.parse("seq(id,id)"))
    assert (arch.ops, arch.params, arch.flops, arch.shape) == ((), 0, 0, (3, 64, 64))
    x = torch.randn(1, 3, 64, 64)
    assert supernet.build(arch)(x) is x


def test_an_op_without_a_module_and_one_that_is_not_as_stated_are_named() -> None:
    ops.register(Op(name="only_signed", infer=same))
    text = '//@ input = 4x8\nstart: m\nm: "a" -> only_signed\n | "b" -> wrong_count\n | "c" -> no_module\n'

    def nothing(shape: tuple[int, ...]) -> int:
        return 0

    def shape(s: tuple[int, ...]) -> tuple[int, ...]:
        return s

    user_ops.op("wrong_count", shape=shape, params=nothing, flops=nothing)(
        type("Wrong", (nn.Linear,), {"__init__": lambda self, s: nn.Linear.__init__(self, s[-1], 2)})
    )
    user_ops.op("no_module", shape=shape, params=nothing, flops=nothing)(type("Plain", (), {"__init__": _take}))
    space = grammar.loads(text)
    for sentence, message in (
        ("a", r"op only_signed has a signature and no torch module: decorate .* ar.op"),
        ("b", r"op wrong_count\(\) on \(\(4, 8\),\): 18 parameters built, 0 stated"),
        ("c", r"op no_module: Plain\(\(4, 8\),\) is no torch.nn.Module"),
    ):
        with pytest.raises(BuildError, match=message):
            supernet.build(space.elaborate(space.parse(sentence)))


def _take(self: object, shape: tuple[int, ...]) -> None:
    pass
