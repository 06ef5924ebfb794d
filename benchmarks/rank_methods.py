"""What the benchmarks of choosing ranks share: the values of a trained candidate, the choice on validation, a search's
finalists, PEFT's AdaLoRA.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from archrank.search.job import Job
from archrank.search.results import Run
from archrank.supernet.net import Elastic
from archrank.supernet.training import TrainPlan

__all__ = ["ADALORA_TARGETS", "Point", "adalora", "chosen", "measured", "trained_points"]

Point = dict[str, float]
ADALORA_TARGETS = (1, 2, 4, 8)


def measured(job: Job, net: Elastic, params: float) -> Point:
    """Validation and test values of a trained net."""
    val, test = job.score(net, "validation"), job.score(net, "test")
    return {"params": params, "val_loss": val["loss"], "test_loss": test["loss"], "test_accuracy": test["accuracy"]}


def chosen(points: list[Point], budget: float) -> Point | None:
    """The point of least validation loss within the budget."""
    inside = [p for p in points if p["params"] <= budget]
    return min(inside, key=lambda p: p["val_loss"]) if inside else None


def trained_points(run: Run) -> list[Point]:
    """The fully trained points of a search."""
    return [
        {
            "params": t.values["adapter_params"],
            "val_loss": t.values["loss"],
            "test_loss": t.extra["test"]["loss"],  # type: ignore[index]
            "test_accuracy": t.extra["test"]["accuracy"],  # type: ignore[index]
        }
        for t in run.trials
        if t.stage == "final" and t.state == "done"
    ]


def adalora(job: Job, target: int, total: int, rate: float, seed: int) -> Point:
    """PEFT's AdaLoRA at an average rank of `target` from 1.5 times that, `total` steps; parameters are those of the
    components that it keeps.
    """
    import peft

    torch.manual_seed(seed)
    config = peft.AdaLoraConfig(
        target_modules=list(job.net.names),
        init_r=-(-3 * target // 2),
        target_r=target,
        lora_alpha=-(-3 * target // 2),
        lora_dropout=0.0,
        tinit=total // 10,
        tfinal=total // 3,
        deltaT=10,
        total_step=total,
        orth_reg_weight=0.1,
    )
    model = peft.get_peft_model(copy.deepcopy(job.base.model), config).train()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    plan, batches = TrainPlan(total, rate, seed=seed), job.batches(seed)
    for step in range(total):
        optimizer.param_groups[0]["lr"] = plan.rate(step)
        model(**batches(step)[0]).loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, plan.max_grad_norm)
        optimizer.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    return measured(job, Elastic(model.eval(), {}), _kept(job, model))


def _kept(job: Job, model: nn.Module) -> int:
    """Parameters of the components whose singular value is not 0."""
    kept = 0
    for name, module in model.named_modules():
        if hasattr(module, "lora_E") and "default" in module.lora_E:
            live = int((module.lora_E["default"] != 0).sum())
            kept += live * sum(job.net.shapes[name.removeprefix("base_model.model.")])
    return kept
