"""Evaluation in bf16: by itself only on a CPU with AMX and a base that is not tiny; near fp32's values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import archrank as ar
from archrank.supernet import elastic, narrow
from archrank.supernet.evaluation import EvaluationError
from archrank.supernet.narrow import cpu_has_amx, fitting_dtype
from archrank.supernet.net import Elastic
from archrank.supernet.race_evaluation import race_population
from archrank.supernet.racing import Race

Make = Callable[[str], nn.Module]


@pytest.fixture
def amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})


@pytest.fixture
def no_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": False})


def scrambled(model: nn.Module) -> Elastic:
    net = elastic(model, "lora_ranks", r_max=8)
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in net.adapters.parameters():
            p.normal_(0, 0.2, generator=g)
    return net.eval()


def images(rows: int = 24) -> list[dict[str, Tensor]]:
    g = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 5, (rows,), generator=g)
    return [{"pixel_values": torch.randn(rows, 1, 8, 8, generator=g), "labels": labels}]


def population(net: Elastic, n: int = 12) -> list[dict[str, int]]:
    rng = np.random.default_rng(0)
    return [{name: int(rng.choice([0, 1, 4, 8])) for name in net.names} for _ in range(n)]


def test_where_bf16_fits(tiny: Make, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    base = tiny("vit")
    request.getfixturevalue("amx")
    assert cpu_has_amx()
    assert fitting_dtype(base) == "fp32", "a tiny base is all calls"
    monkeypatch.setattr(narrow, "SMALL", 1000)
    assert fitting_dtype(base) == "bf16"
    assert fitting_dtype(base.to(torch.bfloat16)) == "fp32", "it is narrow already"
    request.getfixturevalue("no_amx")
    assert not cpu_has_amx()
    assert fitting_dtype(base.float()) == "fp32"


@pytest.mark.usefixtures("no_amx")
def test_nothing_narrows_elsewhere(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrow, "SMALL", 1000)
    net, data = scrambled(tiny("vit")), images()
    configs = population(net)
    assert torch.equal(net.evaluate(configs, data, compute_dtype="auto"), net.evaluate(configs, data))
    assert net.narrow is None


@pytest.mark.usefixtures("amx")
@pytest.mark.parametrize("method", ["auto", "loop", "gated", "premerged", "resume"])
def test_auto_is_bf16_with_amx(tiny: Make, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr(narrow, "SMALL", 1000)
    model = tiny("vit")
    net, data = scrambled(model), images()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    configs = population(net)
    truth = net.evaluate(configs, data, method)
    told = net.evaluate(configs, data, method, compute_dtype="auto")
    assert torch.equal(told, net.evaluate(configs, data, method, compute_dtype="bf16"))
    assert not torch.equal(told, truth)
    torch.testing.assert_close(told, truth, rtol=2e-2, atol=2e-2)
    assert np.corrcoef(told, truth)[0, 1] > 0.99
    # the base that was given computes and holds what it did
    assert torch.equal(net.evaluate(configs, data, method), truth)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any("forward" in m.__dict__ for m in model.modules())


def test_new_weights_reach_the_narrow_copy(tiny: Make) -> None:
    model = tiny("vit")
    net, data = scrambled(model), images()
    configs = population(net, 4)
    before = net.evaluate(configs, data, compute_dtype="bf16")
    held = net.narrow
    assert torch.equal(net.evaluate(configs, data, compute_dtype="bf16"), before)
    assert net.narrow is held, "the copy is made once"
    for p in net.adapters.parameters():
        p.data.mul_(1.5)
    adapted = net.evaluate(configs, data, compute_dtype="bf16")
    torch.testing.assert_close(adapted, net.evaluate(configs, data), rtol=2e-2, atol=2e-2)
    next(iter(model.parameters())).data.add_(1.0)
    moved = net.evaluate(configs, data, compute_dtype="bf16")
    assert not torch.equal(moved, adapted)
    torch.testing.assert_close(moved, net.evaluate(configs, data), rtol=3e-2, atol=3e-2)


def test_a_race_and_training_modes_in_bf16(tiny: Make) -> None:
    net, data = scrambled(tiny("vit")), images()
    configs = population(net)
    net.train()
    modes = [m.training for m in net.modules()]
    told = net.evaluate(configs, data, compute_dtype="bf16")
    raced = race_population(net, configs, data, Race(block_rows=8), compute_dtype="bf16")
    assert [m.training for m in net.modules()] == modes
    stay = ~raced.dropped
    torch.testing.assert_close(raced.losses[stay], told[stay], rtol=1e-2, atol=1e-2)


def test_an_unknown_dtype_is_told(tiny: Make) -> None:
    net = scrambled(tiny("vit"))
    with pytest.raises(EvaluationError, match=r"no compute dtype 'fp8'; there are: auto, fp32, bf16"):
        net.evaluate([{}], images(), compute_dtype="fp8")


@pytest.mark.usefixtures("amx")
def test_a_run_writes_what_it_priced_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a resumed run on another machine goes on in the same dtype."""
    monkeypatch.setattr(narrow, "SMALL", 1000)
    run = ar.run("lora_ranks", out=tmp_path / "1", train_steps=5, trials=4, finalists=0, strategy="random")
    assert run.config.evaluate_dtype == "bf16"
    assert 'evaluate_dtype = "bf16"' in (run.path / "config.toml").read_text()
    # a loss of bf16 logits, in fp32
    assert all(0 < t.values["loss"] < 10 for t in run.trials)
