"""The elastic net against plain modules: base untouched, slices exact, four kinds of model."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from archrank.supernet import adapters, elastic
from archrank.supernet.net import Elastic

Make = Callable[[str], nn.Module]


def inputs_of(kind: str, rows: int = 3) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(5)
    if kind == "vit":
        return {"pixel_values": torch.randn(rows, 1, 8, 8, generator=g)}
    ids = torch.randint(3, 60, (rows, 9), generator=g)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def scrambled(model: nn.Module, r_max: int = 8) -> Elastic:
    """A supernet whose adapters are not zero."""
    net = elastic(model, "lora_ranks", r_max=r_max)
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in net.adapters.parameters():
            p.normal_(0, 0.15, generator=g)
    return net.eval()


def logits(net: nn.Module, **more: Tensor) -> Tensor:
    with torch.no_grad():
        out: Tensor = net(**more).logits
    return out


def by_hand(model: nn.Module, net: Elastic, ranks: dict[str, int], inputs: dict[str, Tensor]) -> Tensor:
    """The same sub-network by writing W + B A into a copy of the base."""
    plain = copy.deepcopy(model)
    for name, adapter in net.items():
        if r := ranks.get(name, 0):
            delta = adapter.B[:, :r] @ adapter.A[:r]  # type: ignore[index]
            weight = plain.get_submodule(name).weight
            weight.data += delta.detach().T if "Conv1D" in type(plain.get_submodule(name)).__name__ else delta.detach()  # type: ignore[union-attr, operator]
    return logits(plain, **inputs)


def mixed_ranks(net: Elastic, seed: int = 0) -> dict[str, int]:
    rng = np.random.default_rng(seed)
    return {name: int(rng.choice([0, 1, 2, 4, 8])) for name in net.names}


def test_a_fresh_supernet_is_the_base(tiny: Make, kind: str) -> None:
    model = tiny(kind)
    inputs = inputs_of(kind)
    before = logits(model, **inputs)
    net = elastic(model, "lora_ranks")
    assert torch.equal(logits(net.eval(), **inputs), before)


def test_select_equals_weights_written_by_hand(tiny: Make, kind: str) -> None:
    model = tiny(kind)
    net = scrambled(model)
    inputs = inputs_of(kind)
    for seed in range(3):
        ranks = mixed_ranks(net, seed)
        net.select(ranks)
        torch.testing.assert_close(logits(net, **inputs), by_hand(model, net, ranks, inputs), atol=2e-6, rtol=1e-5)
    net.reset()
    torch.testing.assert_close(
        logits(net, **inputs), by_hand(model, net, dict.fromkeys(net.names, 8), inputs), atol=2e-6, rtol=1e-5
    )


def test_rows_of_one_batch_have_ranks_of_their_own(tiny: Make, kind: str) -> None:
    net = scrambled(tiny(kind))
    inputs = inputs_of(kind)
    configs = [mixed_ranks(net, seed) for seed in range(3)]
    spectrum = torch.cat([net.spectrum_of(c) for c in configs])
    with torch.no_grad():
        together = net(spectrum=spectrum, **inputs).logits
    for i, config in enumerate(configs):
        net.select(config)
        torch.testing.assert_close(
            together[i : i + 1], logits(net, **{k: v[i : i + 1] for k, v in inputs.items()}), atol=2e-6, rtol=1e-5
        )


def test_the_base_stays_bit_identical_and_free_of_hooks(tiny: Make, kind: str) -> None:
    model = tiny(kind)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    net = scrambled(model)
    net.select(mixed_ranks(net))
    net.train()
    net(**inputs_of(kind)).logits.sum().backward()  # type: ignore[attr-defined]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
    assert list(model.state_dict()) == list(before)


def test_a_slice_is_the_selected_sub_network(tiny: Make, kind: str) -> None:
    net = scrambled(tiny(kind))
    ranks = mixed_ranks(net, 4)
    net.select(ranks)
    small = net.sliced(ranks)
    assert {n: a.rank for n, a in small.items()} == {n: r for n, r in ranks.items() if r}
    torch.testing.assert_close(
        logits(small.eval(), **inputs_of(kind)), logits(net, **inputs_of(kind)), atol=2e-6, rtol=1e-5
    )


def test_a_derivation_selects_what_its_ranks_select(tiny: Make) -> None:
    net = scrambled(tiny("bert"))
    assert net.space is not None
    [d] = net.space.sample(np.random.default_rng(0), n=1)
    net.select(d)
    first = logits(net, **inputs_of("bert"))
    net.select({name: a.rank for name, a in net.space.adapters(d).items()})
    assert torch.equal(first, logits(net, **inputs_of("bert")))


def test_gradient_checkpointing_recomputes_under_the_same_ranks(tiny: Make, kind: str) -> None:
    configs = [mixed_ranks(scrambled(tiny(kind)), seed) for seed in range(3)]
    grads = []
    for checkpointing in (False, True):
        net = scrambled(tiny(kind))
        if checkpointing:
            net.enable_gradient_checkpointing()
        net.train()
        for m in net.base.modules():
            if isinstance(m, nn.Dropout):
                m.p = 0.0
        spectrum = torch.cat([net.spectrum_of(c) for c in configs])
        losses = [net(spectrum=s, **inputs_of(kind)).logits.square().mean() for s in (spectrum, spectrum.flip(0))]  # type: ignore[attr-defined]
        sum(losses).backward()  # type: ignore[union-attr]
        grads.append([p.grad.clone() for p in net.adapters.parameters()])  # type: ignore[union-attr]
    for plain, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(plain, recomputed, atol=1e-6, rtol=1e-5)


def test_a_slice_of_a_checkpointed_net_recomputes_its_own_adapters(tiny: Make, kind: str) -> None:
    grads = []
    for checkpointing in (False, True):
        net = scrambled(tiny(kind))
        if checkpointing:
            net.enable_gradient_checkpointing()
        net.base.requires_grad_(False)
        small = net.sliced(mixed_ranks(net, 4)).train()
        for m in net.base.modules():
            if isinstance(m, nn.Dropout):
                m.p = 0.0
        small(**inputs_of(kind)).logits.square().mean().backward()  # type: ignore[attr-defined]
        grads.append([p.grad.clone() for p in small.adapters.parameters()])  # type: ignore[union-attr]
    for plain, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(plain, recomputed, atol=1e-6, rtol=1e-5)


def test_evaluate_is_the_plain_loop_and_leaves_the_net_as_it_was(tiny: Make) -> None:
    net = scrambled(tiny("bert"))
    g = torch.Generator().manual_seed(0)
    data = [{**inputs_of("bert", n), "labels": torch.randint(0, 3, (n,), generator=g)} for n in (4, 2)]
    configs: list[dict[str, int]] = [{}, mixed_ranks(net, 1), mixed_ranks(net, 2)]
    net.train()
    got = net.evaluate(configs, data)
    assert net.training
    net.eval()
    for config, loss in zip(configs, got, strict=True):
        net.select(config)
        with torch.no_grad():
            truth = sum(len(b["labels"]) * float(net(**b).loss) for b in data) / 6  # type: ignore[attr-defined]
        assert float(loss) == pytest.approx(truth, abs=1e-6)
    with pytest.raises(ValueError, match=r"no evaluation method 'fast'; there are: auto, loop"):
        net.evaluate(configs, data, method="fast")


def test_bad_configurations_are_told(tiny: Make) -> None:
    net = scrambled(tiny("bert"))
    name = net.names[0]
    with pytest.raises(ValueError, match=rf"rank 9 of {name} is outside 0 … 8"):
        net.select({name: 9})
    with pytest.raises(
        ValueError, match=r"no adapted module 'bert.encoder.layer.0.attention.self.qery'; did you mean .*query"
    ):
        net.select({"bert.encoder.layer.0.attention.self.qery": 1})


@pytest.mark.parametrize("family", adapters.available())
def test_adapter_family_conformance(family: str) -> None:
    """Zero at start, merged = unmerged, a slice stands alone, parameters as the closed form says, gradients in the
    adapter alone.
    """
    from archrank.grammar import ops

    kind = adapters.load(family)
    g = torch.Generator().manual_seed(0)
    adapter = kind(24, 16, 8, scale=0.5, generator=g)
    x = torch.randn(3, 5, 16, generator=g)
    assert not adapter(x).any()
    assert sum(p.numel() for p in adapter.parameters()) == ops.load(family).params(24, 16, 8)
    with torch.no_grad():
        for p in adapter.parameters():
            p.normal_(generator=g)
    torch.testing.assert_close(adapter(x), x @ adapter.delta_weight().T)
    A, B = adapter.lora_factors()
    torch.testing.assert_close(B @ A, adapter.delta_weight())
    first = (torch.arange(8) < 3).float()[None]
    torch.testing.assert_close(adapter(x, first), adapter.sliced(3)(x))
    adapter(x).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapter.parameters())
    with pytest.raises(ValueError, match=r"rank 17 is outside 1 … min\(in, out\) = 16"):
        kind(24, 16, 17)
