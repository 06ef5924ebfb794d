"""Stacked candidates run the ops' own kernels where the backend picks Triton, here in its interpreter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from archrank.supernet import elastic, wiring
from archrank.supernet.costs import Costs
from archrank.supernet.evaluation import Evaluator, loss_of
from archrank.supernet.net import Elastic
from archrank.supernet.population import Way

Make = Callable[[str], nn.Module]


def scrambled(model: nn.Module) -> Elastic:
    net = elastic(model, "lora_ranks", r_max=4, alpha=2.0)
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in net.adapters.parameters():
            p.normal_(0, 0.2, generator=g)
    return net.eval()


def data(rows: int = 2) -> list[dict[str, Tensor]]:
    ids = torch.randint(3, 60, (rows, 5), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": ids, "labels": torch.arange(rows) % 3}]


def population(net: Elastic, n: int = 4) -> list[dict[str, int]]:
    rng = np.random.default_rng(0)
    return [{name: int(rng.choice([0, 1, 2, 4])) for name in net.names} for _ in range(n)]


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """How often wiring calls an op, and with how many candidates or weights."""
    calls: list[int] = []
    own = getattr(wiring, name)

    def call(*args: Tensor) -> Tensor:
        calls.append(len(args[4] if name == "gated_lora" else args[1]))
        told: Tensor = own(*args)
        return told

    monkeypatch.setattr(wiring, name, call)
    return calls


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stacked_candidates_run_the_gated_kernel(
    tiny: Make, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    net, batches = scrambled(tiny("bert").to(dtype)), data()
    configs = population(net)
    truth = net.evaluate(configs, batches, "loop")
    calls = counted(monkeypatch, "gated_lora")
    told = net.evaluate(configs, batches, "gated")
    assert calls
    assert max(calls) == len(configs)
    off = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(told, truth, atol=off, rtol=off)
    assert torch.equal(net.evaluate(configs, batches, "gated"), told)


def test_without_triton_the_branch_runs(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    net, batches = scrambled(tiny("bert")), data()
    configs = population(net)
    calls = counted(monkeypatch, "gated_lora")
    assert torch.equal(net.evaluate(configs, batches, "gated"), net.evaluate(configs, batches, "loop"))
    assert not calls


def stacked_merged(net: Elastic, configs: list[dict[str, int]], batches: list[dict[str, Tensor]]) -> Tensor:
    """What premerged does on a GPU."""
    with Evaluator(net, "premerged", batches).opened() as evaluator:
        evaluator.way = Way(copies=len(configs), merged=True)
        return torch.stack(evaluator.batch(evaluator.vectors(configs), 0, batches[0], loss_of)).double()


@pytest.mark.parametrize("kind", ["bert", "gpt2", "vit"])
@pytest.mark.parametrize("triton", [False, True])
def test_stacked_merged_weights_are_picked_inside_one_call(
    tiny: Make, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, kind: str, triton: bool
) -> None:
    if triton:
        request.getfixturevalue("interpreter")
    if kind == "vit":
        g = torch.Generator().manual_seed(0)
        batches = [{"pixel_values": torch.randn(2, 1, 8, 8, generator=g), "labels": torch.tensor([1, 3])}]
    else:
        batches = data()
        if kind == "gpt2":
            batches = [{"input_ids": batches[0]["input_ids"], "labels": batches[0]["input_ids"]}]
    net = scrambled(tiny(kind))
    configs = population(net)
    calls = counted(monkeypatch, "grouped_choice_linear")
    told = stacked_merged(net, configs, batches)
    assert calls
    assert 1 < max(calls) <= 4
    torch.testing.assert_close(told, net.evaluate(configs, batches, "loop"), atol=1e-6, rtol=1e-6)


def test_premerged_stacks_on_a_gpu_only(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    net, batches = scrambled(tiny("bert")), data()
    monkeypatch.setitem(__import__("archrank.supernet.costs", fromlist=["COSTS"]).COSTS, "cuda", Costs(100, 2, 2))
    with Evaluator(net, "premerged", batches).opened() as evaluator:
        vectors = evaluator.vectors(population(net))
        assert evaluator._pick(vectors, batches[0]) == Way(merged=True, keep=True)
        evaluator.device = torch.device("cuda")
        assert evaluator._pick(vectors, batches[0]) == Way(copies=10, merged=True)
