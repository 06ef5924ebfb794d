"""Sandwich training of elastic encoders: what it teaches, that it resumes exactly, what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from archrank.grammar import LayerChoice
from archrank.supernet import Distillation, Sandwich, elastic, fine_tune, load_cut, train_sandwich, train_whole
from archrank.supernet.checkpoint import Checkpoint
from archrank.supernet.distillation import Answer
from archrank.supernet.elastic_encoder import ElasticEncoder
from archrank.supernet.sandwich import drawn
from archrank.supernet.tasks import TEACHER, inputs_of
from archrank.supernet.teaching import taught_loss
from archrank.supernet.training import TrainPlan

Make = Callable[[str], nn.Module]
PLAN = TrainPlan(30, 1e-2, seed=3)


def batches(step: int) -> tuple[Mapping[str, Tensor], NDArray[np.int64]]:
    """Whether the first token is above 30; the last tokens of every second row are padding."""
    g = torch.Generator().manual_seed(step)
    ids = torch.randint(3, 60, (8, 9), generator=g)
    mask = torch.ones_like(ids)
    mask[::2, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": (ids[:, 1] > 30).long()}, np.arange(8) + 8 * step


def loss_of(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    return cross_entropy(logits, batch["labels"])


def net_of(make: Make) -> ElasticEncoder:
    return elastic(make("bert"), "elastic_encoder", r_max=4, data=[batches(1000)[0]])


def weights(net: ElasticEncoder) -> list[Tensor]:
    return [p.detach().clone() for p in net.parameters()]


def few(step: int) -> tuple[Mapping[str, Tensor], NDArray[np.int64]]:
    """Two batches, over and over."""
    return batches(step % 2)


def told_loss(net: ElasticEncoder, sub: Mapping[str, LayerChoice]) -> float:
    inputs = dict(few(0)[0])
    net.select(sub)
    with torch.no_grad():
        loss = cross_entropy(net(**inputs).logits, inputs["labels"])  # type: ignore[attr-defined]
    net.reset()
    return float(loss)


def test_sub_networks_learn_from_the_whole_and_the_base_stays(tiny: Make) -> None:
    net = net_of(tiny)
    base = [p.clone() for p in net.base.parameters()]
    asked = [net.largest, net.smallest()]
    before = [told_loss(net, sub) for sub in asked]
    train_sandwich(net, few, loss_of, PLAN)
    after = [told_loss(net, sub) for sub in asked]
    assert all(a < b - 0.05 for a, b in zip(after, before, strict=True)), (before, after)
    assert all(torch.equal(a, b) for a, b in zip(base, net.base.parameters(), strict=True))
    assert not net.training
    d = net.space.sample(np.random.default_rng(0))[0]
    net.select(d)
    inputs = batches(5)[0]
    with torch.no_grad():
        cut = net.extract(d).module.eval()(**inputs).logits
        torch.testing.assert_close(net(**inputs).logits, cut, atol=1e-5, rtol=0)  # type: ignore[attr-defined]


def test_the_whole_trains_as_its_own_network_would(tiny: Make) -> None:
    net = net_of(tiny)
    apart = net.extract(net.largest)
    module = apart.unmerged()
    train_whole(net, few, loss_of, PLAN)
    fine_tune(apart, module, few, loss_of, PLAN)
    inputs = {k: v for k, v in batches(7)[0].items() if k != "labels"}
    with torch.no_grad():
        torch.testing.assert_close(net(**inputs).logits, module(**inputs).logits, atol=1e-5, rtol=0)  # type: ignore[attr-defined]
    base = net_of(tiny).base
    assert all(torch.equal(a, b) for a, b in zip(base.parameters(), net.base.parameters(), strict=True))
    assert not net.training
    before = [p.detach().clone() for p in net.base.parameters()]
    train_whole(net, few, loss_of, TrainPlan(2, 1e-2, seed=3), parameters=list(net.parameters()))
    assert not all(torch.equal(a, b) for a, b in zip(before, net.base.parameters(), strict=True))


@pytest.mark.parametrize("whole", [False, True])
def test_an_interrupted_training_goes_on_to_the_same_bits(tiny: Make, tmp_path: Path, whole: bool) -> None:
    def trained(net: ElasticEncoder, checkpoint: Checkpoint | None, tick: Callable[[int, float], None]) -> None:
        chosen = list(net.parameters()) if whole else None
        plan = TrainPlan(13, 1e-2, seed=3)
        train_sandwich(net, batches, loss_of, plan, parameters=chosen, checkpoint=checkpoint, tick=tick)

    straight, stopped, resumed = (net_of(tiny) for _ in range(3))
    trained(straight, None, lambda done, loss: None)
    checkpoint = Checkpoint(tmp_path / "c.safetensors", "supernet", 600)

    def stop(done: int, loss: float) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(stopped, checkpoint, stop)
    steps: list[int] = []
    trained(resumed, checkpoint, lambda done, loss: steps.append(done))
    assert steps == [13]
    assert all(torch.equal(a, b) for a, b in zip(weights(straight), weights(resumed), strict=True))
    moved = [not torch.equal(a, b) for a, b in zip(tiny("bert").parameters(), resumed.base.parameters(), strict=True)]
    assert any(moved) == whole


def test_the_members_of_a_step_are_a_function_of_seed_and_step(tiny: Make) -> None:
    net, recipe = net_of(tiny), Sandwich(random=3, share=50, rank=2)
    members = drawn(net, recipe, 1, 7)
    assert len(members) == 4
    assert {(c.heads, c.ffn, c.ranks[0]) for c in members[0].values()} == {(2, 32, ("q", 2))}
    assert members == drawn(net, recipe, 1, 7)
    assert members != drawn(net, recipe, 1, 8)
    assert members != drawn(net, recipe, 2, 7)


def test_a_cut_network_is_tuned_with_its_teacher_and_its_adapter_goes_along(tiny: Make, tmp_path: Path) -> None:
    net = net_of(tiny)
    first, second = net.layers
    sub = net.extract({first: LayerChoice(False), second: LayerChoice(True, 2, 32, (("q", 2), ("down", 2)))})
    module = sub.unmerged()
    losses: list[float] = []
    fine_tune(sub, module, few, loss_of, PLAN, teacher=net, tick=lambda done, loss: losses.append(loss))
    assert losses[-1] < losses[0]
    changed = {
        n for (n, a), b in zip(module.named_parameters(), sub.unmerged().parameters(), strict=True) if (a != b).any()
    }
    assert {n.rpartition(".")[2] for n in changed} == {"A", "B"}
    folder = sub.retrained(module).save_pretrained(tmp_path / "adapter")
    model = peft.PeftModel.from_pretrained(load_cut(folder / "base"), str(folder)).eval()
    inputs = {k: v for k, v in batches(5)[0].items() if k != "labels"}
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, module(**inputs).logits, atol=1e-5, rtol=0)
    alone = sub.unmerged()
    fine_tune(sub, alone, batches, loss_of, PLAN, parameters=list(alone.parameters()))
    assert (alone.classifier.weight != sub.base.classifier.weight).any()  # type: ignore[union-attr,operator]


def test_answers_that_come_with_the_rows_teach_as_the_teacher_itself(tiny: Make) -> None:
    net, recipe = net_of(tiny).eval(), Distillation(temperature=2.0, hidden=0.0, task=1.0)
    sub = net.extract({name: LayerChoice(True, 2, 32, (("q", 2), ("down", 2))) for name in net.layers})
    asked, carried, alone = (sub.unmerged() for _ in range(3))

    def answered(step: int) -> tuple[Mapping[str, Tensor], NDArray[np.int64]]:
        batch, places = few(step)
        with torch.no_grad():
            told = net(**inputs_of(batch)).logits  # type: ignore[attr-defined]
        return {**batch, TEACHER: told}, places

    fine_tune(sub, asked, few, loss_of, PLAN, teacher=net, distillation=recipe)
    fine_tune(sub, carried, answered, taught_loss(loss_of, recipe), PLAN)
    fine_tune(sub, alone, few, loss_of, PLAN)
    for one, other in zip(asked.parameters(), carried.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(asked.parameters(), alone.parameters(), strict=True))


def test_the_loss_is_the_formula() -> None:
    g = torch.Generator().manual_seed(0)
    z_s, z_t, x, y = (torch.randn(*size, generator=g) for size in ((4, 3), (4, 3), (4, 5, 2), (4, 5, 2)))
    mask = torch.ones(4, 5)
    mask[:, 3:] = 0
    student, teacher = Answer(z_s, {"a": x}), Answer(z_t, {"a": y, "b": y})
    told = Distillation(temperature=2.0, hidden=0.5, task=0.25).loss(student, teacher, torch.tensor(8.0), mask)
    p, q = (z_t / 2).softmax(-1), (z_s / 2).softmax(-1)
    kl = 4 * float((p * (p / q).log()).sum(-1).mean())
    hidden = float((x - y)[:, :3].square().sum() / y[:, :3].square().sum())
    assert float(told) == pytest.approx(kl + 0.25 * 8 + 0.5 * hidden, rel=1e-5)
    mse = Distillation("mse", hidden=0).loss(student, teacher, torch.tensor(8.0))
    assert float(mse) == pytest.approx(float((z_s - z_t).square().mean()), rel=1e-5)


def test_bad_input_is_told(tiny: Make) -> None:
    net = elastic(tiny("bert"), "elastic_encoder", r_max=4)
    with pytest.raises(ValueError, match=r"a sandwich cuts heads and channels, and no importances were measured: give"):
        train_sandwich(net, batches, loss_of, PLAN)
    with pytest.raises(ValueError, match=r"Distillation\(logits='js'\): must be kl or mse"):
        Distillation("js")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"temperature=0, hidden=1.0, task=0.0\): a temperature is above 0"):
        Distillation(temperature=0)
    with pytest.raises(ValueError, match=r"Sandwich\(random=-1, share=25, rank=1\): random and rank are at least 0"):
        Sandwich(random=-1)
