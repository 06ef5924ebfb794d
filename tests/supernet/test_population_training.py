"""Training many adapters in one pass: each as if alone, against an independent loop, and refusals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from archrank.supernet import train_population
from archrank.supernet.adapters.lora import LoRA
from archrank.supernet.population_training import Members, PopulationError
from archrank.supernet.subnetwork import SubNetwork
from archrank.supernet.training import TrainPlan

Make = Callable[[str], nn.Module]
Batch = dict[str, Tensor]


def batches(kind: str) -> list[Batch]:
    g = torch.Generator().manual_seed(1)
    found: list[Batch] = []
    for n in (6, 6, 4):
        if kind == "vit":
            pixels = torch.randn(n, 1, 8, 8, generator=g)
            found.append({"pixel_values": pixels, "labels": torch.randint(0, 5, (n,), generator=g)})
            continue
        ids = torch.randint(3, 60, (n, 7), generator=g)
        labels = torch.randint(0, 3, (n,), generator=g) if kind == "bert" else ids
        found.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return found


def linears(model: nn.Module) -> list[str]:
    return [n for n, m in model.named_modules() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"]


def configurations(model: nn.Module) -> list[dict[str, int]]:
    names = [n for n in linears(model) if any(c.isdigit() for c in n)]
    return [dict.fromkeys(names, 1), dict.fromkeys(names, 4), {n: i % 3 for i, n in enumerate(names)}, {names[0]: 8}]


def alone(model: nn.Module, config: Mapping[str, int], data: list[Batch], steps: int, seed: int) -> dict[str, Tensor]:
    """ΔW of each module after a plain loop: a LoRA beside each layer, AdamW, the norm clipped."""
    generator = torch.Generator().manual_seed(seed)
    adapters: dict[str, LoRA] = {}
    for name in linears(model):
        if rank := config.get(name, 0):
            module = model.get_submodule(name)
            into, out = module.weight.shape if type(module).__name__ == "Conv1D" else reversed(module.weight.shape)  # type: ignore[misc, arg-type]
            adapters[name] = LoRA(int(out), int(into), rank, generator=generator)
    hooks = [
        model.get_submodule(n).register_forward_hook(lambda m, args, y, a=a: y + a(args[0]))  # type: ignore[misc]
        for n, a in adapters.items()
    ]
    for p in model.parameters():
        p.requires_grad_(False)
    weights = [p for a in adapters.values() for p in a.parameters()]
    plan, optimizer = TrainPlan(steps, 1e-2), torch.optim.AdamW(weights, weight_decay=0.0)
    model.eval()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = plan.rate(step)
        model(**data[step % len(data)]).loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    for hook in hooks:
        hook.remove()
    return {n: a.delta_weight() for n, a in adapters.items()}


def deltas(sub: SubNetwork) -> dict[str, Tensor]:
    return {n: B @ A for n, (A, B) in sub.factors.items()}


def test_each_member_is_what_a_plain_loop_trains(tiny: Make, kind: str) -> None:
    model, data = tiny(kind), batches(kind)
    configs = configurations(model)
    subs = train_population(model, configs, data, steps=5, seeds=[3, 1, 4, 1], lr=1e-2)
    for sub, config, seed in zip(subs, configs, [3, 1, 4, 1], strict=True):
        truth = alone(tiny(kind), config, data, 5, seed)
        assert sub.ranks == {n: r for n, r in config.items() if r}
        for name, delta in deltas(sub).items():
            assert truth[name].abs().max() > 1e-3
            torch.testing.assert_close(delta, truth[name], atol=2e-4, rtol=1e-3)


def test_members_do_not_meet_and_runs_repeat(tiny: Make) -> None:
    model, data = tiny("bert"), batches("bert")
    configs = configurations(model)
    one = train_population(model, configs, data, 4, [0, 1, 2, 3])
    again = train_population(model, configs, data, 4, [0, 1, 2, 3])
    turned = train_population(model, configs[::-1], data, 4, [3, 2, 1, 0])[::-1]
    for a, b, c in zip(one, again, turned, strict=True):
        for name in a.factors:
            assert all(map(torch.equal, a.factors[name], b.factors[name]))
            torch.testing.assert_close(a.factors[name][1], c.factors[name][1], atol=1e-5, rtol=1e-3)


def test_parts_of_a_population_that_is_too_large(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = tiny("bert"), batches("bert")
    configs = configurations(model)
    whole = train_population(model, configs, data, 4, [0, 1, 2, 3])
    monkeypatch.setattr("archrank.supernet.population_training.STACK_ROWS", {"cpu": 90})  # two members of 42 tokens
    for a, b in zip(whole, train_population(model, configs, data, 4, [0, 1, 2, 3]), strict=True):
        for name in a.factors:
            torch.testing.assert_close(a.factors[name][1], b.factors[name][1], atol=1e-5, rtol=1e-3)


def test_the_base_stays_as_it_was(tiny: Make) -> None:
    model, data = tiny("vit"), batches("vit")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    flags = [p.requires_grad for p in model.parameters()]
    train_population(model, configurations(model), data, 2, [0] * 4)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training
    assert all(m.training for m in model.modules())
    assert [p.requires_grad for p in model.parameters()] == flags
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_a_bare_member_and_no_member(tiny: Make) -> None:
    model, data = tiny("bert"), batches("bert")
    subs = train_population(model, [{}, configurations(model)[0]], data, 2, [0, 1])
    assert subs[0].ranks == {}
    assert subs[1].ranks
    assert train_population(model, [{}], data, 2, [0])[0].ranks == {}
    assert train_population(model, [], data, 2, []) == []


def test_a_diverging_member_is_named_and_leaves_the_others_alone(tiny: Make) -> None:
    model, data = tiny("bert"), batches("bert")
    configs = configurations(model)
    members = Members(model, configs, [0, 1, 2, 3])
    name = next(iter(configs[1]))
    members.A[name].data[1, 0, 0] = float("inf")
    members.train(lambda step: data[0], TrainPlan(3, 1e-3))
    assert members.diverged() == [1]
    others = Members(model, configs, [0, 1, 2, 3])
    others.train(lambda step: data[0], TrainPlan(3, 1e-3))
    for p in (0, 2, 3):
        for a, b in zip(members.factors()[p].values(), others.factors()[p].values(), strict=True):
            torch.testing.assert_close(a[1], b[1], atol=1e-6, rtol=1e-4)


def test_bad_input_is_told(tiny: Make) -> None:
    model, data = tiny("bert"), batches("bert")
    name = configurations(model)[3].popitem()[0]
    with pytest.raises(PopulationError, match=r"1 configurations and 2 seeds: give one seed for each"):
        train_population(model, [{name: 1}], data, 2, [0, 1])
    with pytest.raises(PopulationError, match=r"0 steps over 3 batches: at least 1 of each"):
        train_population(model, [{name: 1}], data, 0, [0])
    with pytest.raises(PopulationError, match=r"batch 0 has input_ids, and no labels in it"):
        train_population(model, [{name: 1}], [{"input_ids": data[0]["input_ids"]}], 1, [0])
    with pytest.raises(
        PopulationError, match=r"no linear layer 'bert.encoder.layer.0.attention.self.qery'; did you mean"
    ):
        train_population(model, [{"bert.encoder.layer.0.attention.self.qery": 1}], data, 1, [0])
    with pytest.raises(PopulationError, match=r"rank 99 of .* is outside 0 … min\(in, out\) = 32"):
        train_population(model, [{name: 99}], data, 1, [0])
    with pytest.raises(
        PopulationError, match=r"weights of members \[0, 1\] are no longer finite after 3 steps at lr 1e\+38"
    ):
        train_population(model, [{name: 1}, {name: 2}], data, 3, [0, 1], lr=1e38)


class Odd(nn.Module):
    """A loss that is neither a mean nor a sum over rows, and a module that does not see the batch."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.fixed = fixed

    def forward(self, x: Tensor, labels: Tensor) -> SimpleNamespace:
        y = x + self.inner(torch.ones(3, 4)).sum(0) if self.fixed else self.inner(x)
        loss = (y - labels[:, None]).square().mean() if self.fixed else (y - labels[:, None]).square().sum().sqrt()
        return SimpleNamespace(loss=loss)


def test_a_base_that_cannot_be_stacked_is_told() -> None:
    data = [{"x": torch.randn(4, 4), "labels": torch.ones(4)}]
    with pytest.raises(PopulationError, match=r"neither a mean nor a sum over rows.*train them one by one"):
        train_population(Odd(False), [{"inner": 1}, {"inner": 2}], data, 1, [0, 1])
    with pytest.raises(PopulationError, match=r"inner met an input of 3 rows for 2 members.*leave it out"):
        train_population(Odd(True), [{"inner": 1}, {"inner": 2}], data, 1, [0, 1])
