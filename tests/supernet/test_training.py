"""The training loop: resumable bit for bit, deaf to the global generator, honest about NaN; accumulation changes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from archrank.supernet import elastic, policies, training
from archrank.supernet.checkpoint import Checkpoint, adapter_tensors, load_adapters, load_tensors, save_tensors
from archrank.supernet.net import Elastic
from archrank.supernet.training import NonFiniteLoss, TrainPlan, train

Make = Callable[[str], nn.Module]
ROWS = 8


class Stop(Exception):
    """Raised by a tick."""


def batches(step: int) -> tuple[Mapping[str, Tensor], np.ndarray]:  # type: ignore[type-arg]
    g = torch.Generator().manual_seed(step)
    ids = torch.randint(3, 60, (ROWS, 7), generator=g)
    return {"input_ids": ids, "labels": ids[:, 0] % 3}, step * ROWS + np.arange(ROWS)


def loss(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(logits, batch["labels"])


def fresh(tiny: Make) -> Elastic:
    return elastic(tiny("bert"), "lora_ranks", r_max=4)


def state(net: Elastic) -> list[Tensor]:
    return [p.detach().clone() for p in net.adapters.parameters()]


PLAN = TrainPlan(steps=40, lr=5e-3, seed=1)


def test_a_resumed_training_repeats_the_uninterrupted_one_bit_for_bit(tiny: Make, tmp_path: Path) -> None:
    """BERT's dropout is on: the masks, too, are a function of the step."""
    whole = fresh(tiny)
    policy = policies.load("mixed")(whole.shapes, 4, 1)
    train(whole, batches, loss, PLAN, policy=policy)
    broken = fresh(tiny)
    checkpoint = Checkpoint(tmp_path / "c.safetensors", "t", 1e9)
    for stop in (10, 30):

        def tick(done: int, value: float, stop: int = stop) -> None:
            if done == stop:
                raise Stop

        with pytest.raises(Stop):
            train(broken, batches, loss, PLAN, policy=policy, checkpoint=checkpoint, tick=tick)
        broken = fresh(tiny)
        torch.rand(3)  # the caller's generator is elsewhere by now
    train(broken, batches, loss, PLAN, policy=policy, checkpoint=checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(state(whole), state(broken), strict=True))


def test_training_leaves_the_base_and_the_global_generator_alone(tiny: Make) -> None:
    net = fresh(tiny)
    before = {k: v.clone() for k, v in net.base.state_dict().items()}
    flags = [p.requires_grad for p in net.base.parameters()]
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    first = state(net)
    train(net, batches, loss, PLAN)
    assert torch.equal(torch.rand(2), wanted)
    assert all(torch.equal(v, before[k]) for k, v in net.base.state_dict().items())
    assert [p.requires_grad for p in net.base.parameters()] == flags
    assert any(not torch.equal(a, b) for a, b in zip(first, state(net), strict=True))


def test_accumulation_gives_the_same_weights(tiny: Make) -> None:
    ends = []
    for parts in (1, 4):
        net = fresh(tiny)
        for m in net.base.modules():
            if isinstance(m, nn.Dropout):
                m.p = 0.0
        policy = policies.load("mixed")(net.shapes, 4, 1)
        train(net, batches, loss, TrainPlan(steps=5, lr=1e-3, seed=1, accumulate=parts), policy=policy)
        ends.append(state(net))
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_a_loss_that_is_no_number_is_told_with_its_step(tiny: Make) -> None:
    def bad(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        return loss(logits, batch) * float("nan")

    with pytest.raises(NonFiniteLoss, match="the loss became nan at step 10; a smaller --lr is the usual remedy"):
        train(fresh(tiny), batches, bad, PLAN)


def test_slow_steps_are_looked_at_one_by_one(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to stop a training is heard at the next step, and a bad loss is told at the step of fast ones."""

    def bad(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        return loss(logits, batch) * float("nan")

    looks: list[int] = []
    for seconds, expected in ((1e9, [10, 20, 30, 40]), (0.0, list(range(1, 41)))):
        monkeypatch.setattr(training, "LOOK_SECONDS", seconds)
        looks.clear()
        train(fresh(tiny), batches, loss, PLAN, tick=lambda done, value: looks.append(done))
        assert looks == expected
    with pytest.raises(NonFiniteLoss, match="nan at step 10;"):
        train(fresh(tiny), batches, bad, PLAN)


def test_the_learning_rate_warms_up_and_decays_to_zero() -> None:
    plan = TrainPlan(steps=100, lr=1.0)
    rates = [plan.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 6)
    assert max(rates) == rates[5] == 1.0
    assert rates[99] == pytest.approx(1 / 94)
    assert all(a > b for a, b in pairwise(rates[6:]))


def test_a_checkpoint_of_another_training_is_not_taken_up(tiny: Make, tmp_path: Path) -> None:
    net = fresh(tiny)
    parameters = list(net.adapters.parameters())
    optimizer = torch.optim.AdamW(parameters)
    Checkpoint(tmp_path / "c", "one", 1).save(7, parameters, optimizer, 1.5)
    assert Checkpoint(tmp_path / "c", "other", 1).load(parameters, optimizer) == (0, 0.0)
    assert Checkpoint(tmp_path / "c", "one", 1).load(parameters, optimizer) == (7, 1.5)


def test_adapters_survive_a_file(tiny: Make, tmp_path: Path) -> None:
    net, other = fresh(tiny), fresh(tiny)
    train(net, batches, loss, TrainPlan(steps=3, lr=1e-2))
    save_tensors(tmp_path / "a.safetensors", adapter_tensors(net.items()), {"r_max": 4})
    tensors, meta = load_tensors(tmp_path / "a.safetensors")
    load_adapters(other.items(), tensors)
    assert meta == {"r_max": 4}
    assert all(torch.equal(a, b) for a, b in zip(state(net), state(other), strict=True))


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from archrank.supernet import checkpoint

    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": torch.ones(2)}, {})

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_tensors(path, {"x": torch.zeros(2)}, {})
    assert torch.equal(load_tensors(path)[0]["x"], torch.ones(2))
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
