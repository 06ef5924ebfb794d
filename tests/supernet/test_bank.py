"""A bank of shared weights: what a child starts from, what an update leaves, and what it may hold."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from archrank import grammar, spaces, supernet
from archrank.supernet.bank import Slot, slots
from archrank.supernet.checkpoint import load_tensors, save_tensors

SHAPE, SHAPE_64 = (3, 8, 8), (3, 64, 64)


@pytest.fixture(scope="module")
def space() -> grammar.Space:
    return spaces.load("einspace").with_input(SHAPE).within(flops=(None, 2e7), activation_bytes=(None, 2**19))


def of(space: grammar.Space, text: str) -> grammar.Architecture:
    return space.elaborate(space.parse(text))


def filled(module: nn.Module, value: float) -> nn.Module:
    with torch.no_grad():
        for p in module.parameters():
            p.fill_(value)
    return module


def test_an_architecture_starts_from_its_own_update(space: grammar.Space) -> None:
    bank = supernet.Bank(space)
    for i, d in enumerate(space.sample(np.random.default_rng(0), 60)):
        arch = space.elaborate(d)
        bank.update(arch, filled(bank.build(arch), float(i)))
        again = bank.build(arch)
        assert sum(p.numel() for p in again.parameters()) == arch.params
        assert all(bool((p == i).all()) for p in again.parameters())


def test_building_copies_and_only_an_update_writes_back(space: grammar.Space) -> None:
    bank, arch = supernet.Bank(space), of(space, "seq(linear(16),norm)")
    bank.update(arch, filled(bank.build(arch), 1.0))
    filled(bank.build(arch), 2.0)
    assert all(bool((p == 1).all()) for p in bank.build(arch).parameters())


def test_relatives_share_slots_and_slices(space: grammar.Space) -> None:
    bank = supernet.Bank(space)
    wide = of(space, "seq(linear(64),norm)")
    bank.update(wide, filled(bank.build(wide), 3.0))
    same = bank.build(of(space, "seq(route(id,leaky_relu,id),seq(linear(64),softmax))"))
    assert all(bool((p == 3).all()) for p in same.parameters())
    narrow = bank.build(of(space, "seq(linear(16),softmax)"))
    assert all(bool((p == 3).all()) for p in narrow.parameters())
    wider = bank.build(of(space, "seq(linear(128),softmax)"), seed=0)
    weight, bias = wider.parameters()
    assert bool((weight[:64] == 3).all())
    assert bool((bias[:64] == 3).all())
    assert not bool((weight[64:] == 3).any())


def test_equal_ops_of_one_architecture_keep_weights_of_their_own(space: grammar.Space) -> None:
    bank, arch = supernet.Bank(space), of(space, "seq(linear(16),seq(linear(16),linear(16)))")
    module = bank.build(arch)
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p.fill_(float(i))
    bank.update(arch, module)
    assert [float(p.detach().flatten()[0]) for p in bank.build(arch).parameters()] == [0, 1, 2, 3, 4, 5]


def test_a_convolution_and_a_linear_layer_of_its_shape_do_not_mix(space: grammar.Space) -> None:
    bank = supernet.Bank(space)
    conv = of(space, "route(im2col(3,1,1),linear(16),col2im)")
    bank.update(conv, filled(bank.build(conv), 5.0))
    rows = bank.build(of(space, "route(im2col(3,1,1),seq(linear(16),norm),id)"), seed=0)
    assert not any(bool((p == 5).all()) for p in rows.parameters())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("seq(norm,linear(16))", "seq(norm,seq(linear(8_),linear(16)))"),
        ("seq(linear(16),leaky_relu)", "seq(seq(linear(16),linear(16)),leaky_relu)"),
        ("seq(norm,leaky_relu)", "seq(norm,seq(pos_enc,leaky_relu))"),
    ],
)
def test_a_child_computes_what_its_parent_did_where_the_new_op_can_be_the_identity(before: str, after: str) -> None:
    space = grammar.loads(spaces.load("einspace").text.replace('WIDTH: "16"', 'WIDTH: "8_" | "16"').replace("8_", "8"))
    space = space.with_input(SHAPE)
    parent, child = of(space, before), of(space, after.replace("8_", "8"))
    bank = supernet.Bank(space)
    trained = bank.build(parent, seed=1).eval()
    bank.update(parent, trained)
    x = torch.randn(2, *SHAPE)
    made = bank.build(child, seed=2, parent=parent).eval()
    torch.testing.assert_close(made(x), trained(x))


@pytest.mark.parametrize("middle", [16, 24, 32])
def test_a_wider_layer_leaves_the_function_as_it_was(middle: int) -> None:
    """The rows of the last layer that the parent had read zeros from what is new."""
    space = grammar.loads(WIDTHS)
    parent, child = (of(space, f"mlp(l(24),l({n}),l(16))") for n in (8, middle))
    bank = supernet.Bank(space)
    trained = bank.build(parent, seed=1)
    bank.update(parent, trained)
    x = torch.randn(4, *parent.input)
    made = bank.build(child, seed=2, parent=parent)
    torch.testing.assert_close(made(x), trained(x))
    assert float(made.ops[1].weight[8:].detach().abs().min()) > 0  # type: ignore[index]


@pytest.mark.parametrize(
    "branch", ["route(im2col(3,1,1),linear(16),col2im)", "seq(norm,route(im2col(1,1,0),linear(16),col2im))", "norm"]
)
def test_a_new_branch_beside_the_old_one_starts_at_zero(branch: str) -> None:
    space = spaces.load("einspace").with_input((16, 8, 8))
    parent = of(space, "seq(norm,leaky_relu)")
    child = of(space, f"seq(seq(norm,branch2(clone,id,{branch},add)),leaky_relu)")
    bank = supernet.Bank(space)
    trained = bank.build(parent).eval()
    bank.update(parent, trained)
    x = torch.randn(2, 16, 8, 8)
    made = bank.build(child, seed=3, parent=parent).eval()
    torch.testing.assert_close(made(x), trained(x))
    made.train()(x).square().sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in list(made.parameters())[2:])


def test_a_new_convolution_that_keeps_its_channels_is_the_identity() -> None:
    space = spaces.load("einspace").with_input((16, 8, 8))
    parent = of(space, "seq(norm,leaky_relu)")
    child = of(space, "seq(norm,seq(route(im2col(3,1,1),linear(16),col2im),leaky_relu))")
    bank = supernet.Bank(space)
    trained = bank.build(parent).eval()
    bank.update(parent, trained)
    x = torch.randn(2, 16, 8, 8)
    torch.testing.assert_close(bank.build(child, parent=parent).eval()(x), trained(x))


def test_it_holds_no_more_than_its_capacity_and_forgets_the_oldest(space: grammar.Space) -> None:
    archs = [of(space, f"seq(linear({n}),norm)") for n in (16, 32, 64)]
    sizes = []
    for arch in archs:
        one = supernet.Bank(space)
        one.update(arch, one.build(arch))
        sizes.append(one.nbytes)
    bank = supernet.Bank(space, capacity_bytes=sizes[1] + sizes[2])
    for arch in archs:
        bank.update(arch, filled(bank.build(arch), 7.0))
        assert bank.nbytes <= bank.capacity_bytes
    assert bank.nbytes > 0
    names = bank.order()
    assert not any(name.startswith("linear/16x8,") for name in names)
    assert any(name.startswith("linear/64x8,") for name in names)


def test_memory_stays_flat_over_many_candidates(space: grammar.Space) -> None:
    bank, rng = supernet.Bank(space, capacity_bytes=2**20), np.random.default_rng(1)
    held = []
    for _ in range(3):
        for d in space.sample(rng, 40):
            arch = space.elaborate(d)
            network = bank.build(arch, seed=0).train()
            y = network(torch.randn(2, *SHAPE))
            if y.requires_grad:
                y.square().mean().backward()
            bank.update(arch, network)
            assert bank.nbytes <= 2**20
        del network, y
        gc.collect()
        storages = {
            s.data_ptr(): s.nbytes()
            for t in gc.get_objects()
            if type(t) in (torch.Tensor, nn.Parameter)
            for s in [t.untyped_storage()]
        }
        held.append(sum(storages.values()))
    assert held[-1] <= held[0] + 2**20


def test_it_is_saved_and_read_back_with_its_order(space: grammar.Space, tmp_path: object) -> None:
    bank = supernet.Bank(space)
    for d in space.sample(np.random.default_rng(2), 20):
        arch = space.elaborate(d)
        bank.update(arch, bank.build(arch, seed=0))
    file = tmp_path / "bank.safetensors"  # type: ignore[operator]
    save_tensors(file, bank.state_dict(), {"order": bank.order()})
    tensors, meta = load_tensors(file)
    other = supernet.Bank(space)
    other.load_state_dict(tensors, meta["order"])  # type: ignore[arg-type]
    assert (other.order(), other.nbytes, len(other)) == (bank.order(), bank.nbytes, len(bank))
    assert [Slot.named(name).name for name in bank.order()] == bank.order()
    for d in space.sample(np.random.default_rng(3), 10):
        arch = space.elaborate(d)
        a, b = (x.build(arch, seed=4).state_dict() for x in (bank, other))
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_slots_name_op_shapes_and_place(space: grammar.Space) -> None:
    network = supernet.build(of(space, "seq(linear(16),seq(route(im2col(3,1,1),linear(16),col2im),norm))"))
    assert [slot.name for slot in slots(network).values()] == [
        "linear/16x8,16/0/0of2",
        "linear_k3/16x27,16/0/1of2",
        "norm/16,16/0/0of1",
    ]


WIDTHS = """//@ input = 6x16
start: "mlp" "(" layer "," layer "," layer ")" -> stack3
layer: "l" "(" WIDTH ")" -> linear
WIDTH: "8" | "16" | "24" | "32"
%ignore /\\s+/
"""


@pytest.mark.parametrize(
    ("trained", "child"),
    [((24, 24, 24), (16, 16, 16)), ((24, 24, 16), (16, 16, 16)), ((32, 24, 16), (24, 16, 8)), ((8, 8, 8), (24, 8, 16))],
)
def test_slices_come_from_the_op_at_the_same_place(trained: tuple[int, ...], child: tuple[int, ...]) -> None:
    space = grammar.loads(WIDTHS)
    made = [of(space, f"mlp({','.join(f'l({n})' for n in widths)})") for widths in (trained, child)]
    bank = supernet.Bank(space)
    network = bank.build(made[0])
    for i, op in enumerate(network.ops):
        filled(op, i + 1.0)
    bank.update(made[0], network)
    for i, op in enumerate(bank.build(made[1]).ops):
        assert {float(t.flatten()[0]) for t in op.state_dict().values()} == {i + 1.0}


def test_a_narrower_block_inherits_heads_of_queries_keys_and_values_alike() -> None:
    space = grammar.loads(
        '//@ input = 8x64\nstart: "b" "(" HEADS "," RATIO ")" -> gpt_block1\n'
        'HEADS: "2" | "4"\nRATIO: "1" | "2"\n%ignore /\\s+/\n'
    )
    wide, narrow = of(space, "b(4,2)"), of(space, "b(2,1)")
    bank = supernet.Bank(space)
    network = bank.build(wide)
    with torch.no_grad():
        for tensor in (network.ops[0].qkv.weight, network.ops[0].qkv.bias):  # type: ignore[union-attr]
            for value, part in enumerate(tensor.chunk(3)):  # type: ignore[operator]
                part.fill_(value + 1.0)
    bank.update(wide, network)
    child = bank.build(narrow).ops[0].qkv  # type: ignore[union-attr]
    for tensor in (child.weight, child.bias):  # type: ignore[union-attr]
        assert [set(part.flatten().tolist()) for part in tensor.chunk(3)] == [{1.0}, {2.0}, {3.0}]  # type: ignore[operator]


def test_a_smaller_kernel_is_the_middle_of_a_larger_one() -> None:
    space = spaces.load("ensemble_cnn")
    large, small = (of(space, f"single(conv({k},8),conv(3,8),conv(3,16),conv(3,16))") for k in (5, 3))
    bank = supernet.Bank(space)
    trained = bank.build(large, seed=0)
    bank.update(large, trained)
    child = bank.build(small, seed=1)
    whole, middle = (m.ops[0].state_dict() for m in (trained, child))
    name = next(n for n, t in whole.items() if t.dim() == 4)
    assert torch.equal(middle[name], whole[name][:, :, 1:4, 1:4])
    assert all(torch.equal(t, whole[n]) for n, t in middle.items() if n != name)


def test_what_is_larger_than_the_bank_is_not_held() -> None:
    space = grammar.loads(WIDTHS)
    small, large = of(space, "mlp(l(8),l(8),l(8))"), of(space, "mlp(l(32),l(32),l(32))")
    bank = supernet.Bank(space, capacity_bytes=1500)
    bank.update(small, bank.build(small))
    held = bank.order()
    assert len(held) == 3
    bank.update(large, bank.build(large))
    assert bank.order() == held
    tight = supernet.Bank(space, capacity_bytes=700)
    tight.load_state_dict(bank.state_dict(), bank.order())
    assert tight.order() == held[-2:]
    assert tight.nbytes <= 700


def test_what_cannot_be_banked_is_refused(space: grammar.Space) -> None:
    with pytest.raises(ValueError, match=r"lora_ranks has no architectures to share weights among; it needs //@ input"):
        supernet.Bank(spaces.load("lora_ranks"))
    for capacity in (-1, float("nan")):
        with pytest.raises(ValueError, match=rf"capacity_bytes = {capacity}: a bank holds at least nothing"):
            supernet.Bank(space, capacity)  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"Bank\('einspace'\): needs a space, as grammar\.load or spaces\.load gives it"
    ):
        supernet.Bank("einspace")  # type: ignore[arg-type]
    bank = supernet.Bank(space)
    with pytest.raises(TypeError, match=r"build\(Derivation\): needs an Architecture; space\.elaborate\(derivation\)"):
        bank.build(space.parse("seq(norm,norm)"))  # type: ignore[arg-type]
    a, b = of(space, "seq(norm,norm)"), of(space, "seq(norm,softmax)")
    with pytest.raises(ValueError, match=r"the module was not built for this architecture"):
        bank.update(a, bank.build(b))
    with pytest.raises(ValueError, match=r"the module was not built for this architecture"):
        bank.update(a, nn.Linear(2, 2))


@pytest.mark.slow
def test_a_thousand_networks_train_a_step_through_the_bank(resident: Callable[[], int]) -> None:
    """Without an error, within the bank's capacity, and with the process no larger at the end than half-way."""
    space = spaces.load("einspace").within(flops=(None, 2e8), activation_bytes=(None, 2**20))
    bank, rng, used = supernet.Bank(space, capacity_bytes=2**27), np.random.default_rng(5), list[int]()
    for i, d in enumerate(space.sample(rng, 1000)):
        arch = space.elaborate(d)
        network = bank.build(arch, seed=i).train()
        y = network(torch.randn(2, *SHAPE_64))
        if y.requires_grad:
            y.square().mean().clamp(max=1e3).backward()
            with torch.no_grad():
                for p in network.parameters():
                    if p.grad is not None:
                        p.sub_(1e-4 * p.grad.nan_to_num().clamp(-1, 1))
        bank.update(arch, network)
        assert bank.nbytes <= 2**27
        if i in (499, 999):
            del network, y
            gc.collect()
            used.append(resident())
    assert used[1] <= 1.15 * used[0] + 2**27
