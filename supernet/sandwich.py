"""Training an elastic encoder, whole and cut, and a cut network taken from it.

Sandwich rule with in-place distillation (Yu and Huang, Universally Slimmable Networks, ICCV 2019): each step trains the
largest network on the labels, and the smallest and `random` sampled ones on the largest's answer to the same batch,

    L = (L_task(largest) + Σ_k L_distil(k, largest)) / (2 + random)

with L_distil of distillation.py. The sub-networks of step t are a function of (seed, t), so a checkpoint is parameters,
Adam's moments and one integer, as in training.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from archrank.grammar import LayerChoice
from archrank.supernet.checkpoint import Checkpoint
from archrank.supernet.cut_network import AdaptedLinear, CutNetwork
from archrank.supernet.distillation import Answer, Distillation, DistillationError, watched
from archrank.supernet.elastic_encoder import ElasticEncoder
from archrank.supernet.importance import WANTED, ImportanceError
from archrank.supernet.tasks import inputs_of
from archrank.supernet.training import Batches, LossFunction, Tick, TrainPlan, can_fuse, descend, only

__all__ = ["Sandwich", "adapter_parameters", "drawn", "fine_tune", "train_sandwich", "train_whole"]


@dataclass(frozen=True, slots=True)
class Sandwich:
    """random: sampled sub-networks a step; share, rank: of the smallest; distillation: from the largest."""

    random: int = 2
    share: int = 25
    rank: int = 1
    distillation: Distillation = field(default_factory=Distillation)

    def __post_init__(self) -> None:
        if self.random < 0 or self.rank < 0 or not 1 <= self.share <= 100:
            raise DistillationError(
                f"Sandwich(random={self.random}, share={self.share}, rank={self.rank}): random and rank are at least "
                "0, share is a percentage from 1 to 100"
            )


def drawn(net: ElasticEncoder, sandwich: Sandwich, seed: int, step: int) -> list[dict[str, LayerChoice]]:
    """The smallest sub-network and those sampled at a step, by the space's own probabilities."""
    rng = np.random.default_rng((seed, step))
    sampled = [net.choices(d) for d in net.space.sample(rng, sandwich.random)] if sandwich.random else []
    return [net.smallest(sandwich.share, sandwich.rank), *sampled]


def train_whole(
    net: ElasticEncoder,
    batches: Batches,
    loss_function: LossFunction,
    plan: TrainPlan,
    *,
    parameters: Sequence[nn.Parameter] | None = None,
    checkpoint: Checkpoint | None = None,
    tick: Tick | None = None,
) -> float:
    """Trains all layers with all their heads, channels and adapter components on the labels, in place; returns the
    seconds spent. It is what sub-networks then learn from: a teacher that knows nothing yet spoils what they share
    (Hou et al., DynaBERT, NeurIPS 2020, fine-tune it first too). Arguments and errors as `train_sandwich`.
    """
    trained = list(net.adapters.parameters() if parameters is None else parameters)
    device = next(net.base.parameters()).device

    def gradient(step: int) -> Tensor:
        inputs, labelled = _split(batches(step)[0], device)
        with net.attached(net.largest):
            loss = loss_function(net.base(**inputs).logits, labelled)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    return _descended(net, trained, plan, gradient, checkpoint, tick)


def train_sandwich(
    net: ElasticEncoder,
    batches: Batches,
    loss_function: LossFunction,
    plan: TrainPlan,
    sandwich: Sandwich | None = None,
    *,
    parameters: Sequence[nn.Parameter] | None = None,
    checkpoint: Checkpoint | None = None,
    tick: Tick | None = None,
) -> float:
    """Trains in place; returns the seconds spent, those before an interruption included.

    parameters: default the adapters; `net.parameters()` trains the encoder itself too; everything else is frozen
    meanwhile. Raises ImportanceError where heads and channels have no order yet, NonFiniteLoss; whatever `tick` raises
    passes through after a checkpoint was written.
    """
    if net.order is None:
        raise ImportanceError(f"a sandwich cuts heads and channels, and no importances were measured: {WANTED}")
    recipe = sandwich or Sandwich()
    trained = list(net.adapters.parameters() if parameters is None else parameters)
    device = next(net.base.parameters()).device
    blocks = {name: net.base.get_submodule(name) for name in net.layers}

    def answer(choices: Mapping[str, LayerChoice], inputs: Mapping[str, Tensor], seen: dict[str, Tensor]) -> Answer:
        seen.clear()
        with net.attached(choices):
            logits: Tensor = net.base(**inputs).logits
        return Answer(logits, dict(seen))

    def gradient(step: int) -> Tensor:
        batch, _ = batches(step)
        inputs, labelled = _split(batch, device)
        members = drawn(net, recipe, plan.seed, step)
        share = 1 / (1 + len(members))
        with watched(blocks) as seen:
            whole = answer(net.largest, inputs, seen)
            loss = loss_function(whole.logits, labelled)
            (loss * share).backward()  # type: ignore[no-untyped-call]
            teacher, total = whole.detached(), loss.detach() * share
            for choices in members:
                student = answer(choices, inputs, seen)
                own = loss_function(student.logits, labelled)
                loss = recipe.distillation.loss(student, teacher, own, inputs.get("attention_mask")) * share
                if loss.requires_grad:  # a sample without an adapter, over a frozen encoder, has nothing to learn
                    loss.backward()  # type: ignore[no-untyped-call]
                total = total + loss.detach()
        return total

    return _descended(net, trained, plan, gradient, checkpoint, tick)


def fine_tune(
    sub: CutNetwork,
    module: nn.Module,
    batches: Batches,
    loss_function: LossFunction,
    plan: TrainPlan,
    *,
    teacher: ElasticEncoder | None = None,
    distillation: Distillation | None = None,
    parameters: Sequence[nn.Parameter] | None = None,
    checkpoint: Checkpoint | None = None,
    tick: Tick | None = None,
) -> float:
    """Trains `module`, which is `sub.unmerged()` (or `sub.module`), in place; returns the seconds spent.

    teacher: the whole net, whose answer it also learns (None: the labels alone); distillation: default
    Distillation(task=1); parameters: default the adapters, and all of a module without any. Errors as `train_sandwich`.
    """
    trained = list(parameters) if parameters is not None else adapter_parameters(module) or list(module.parameters())
    device = next(module.parameters()).device
    recipe = distillation or Distillation(task=1.0)
    blocks = {name: module.get_submodule(fresh) for name, fresh in sub.places.items()} if teacher else {}

    def gradient(step: int) -> Tensor:
        batch, _ = batches(step)
        inputs, labelled = _split(batch, device)
        with watched(blocks) as seen:
            student = Answer(module(**inputs).logits, seen)
            loss = loss_function(student.logits, labelled)
            if teacher is not None:
                loss = recipe.loss(student, _told(teacher, inputs), loss, inputs.get("attention_mask"))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    return _descended(module, trained, plan, gradient, checkpoint, tick)


def _descended(
    module: nn.Module,
    trained: list[nn.Parameter],
    plan: TrainPlan,
    gradient: Callable[[int], Tensor],
    checkpoint: Checkpoint | None,
    tick: Tick | None,
) -> float:
    """Steps in train mode with all but `trained` frozen; the seconds spent."""
    module.train()
    with only(module, trained):
        seconds = descend(trained, plan, gradient, fused=can_fuse(trained), checkpoint=checkpoint, tick=tick)
    module.eval()
    return seconds


def _told(net: ElasticEncoder, inputs: Mapping[str, Tensor]) -> Answer:
    """What the whole says, without dropout."""
    training = net.training
    net.eval()
    blocks = {name: net.base.get_submodule(name) for name in net.layers}
    with torch.no_grad(), watched(blocks) as seen, net.attached(net.largest):
        logits: Tensor = net.base(**inputs).logits
    net.train(training)
    return Answer(logits, seen)


def _split(batch: Mapping[str, Tensor], device: torch.device) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(inputs without labels, everything)."""
    moved = {key: value.to(device) for key, value in batch.items()}
    return inputs_of(moved), moved


def adapter_parameters(module: nn.Module) -> list[nn.Parameter]:
    """A and B of every adapter beside a linear layer of `module`."""
    return [p for m in module.modules() if isinstance(m, AdaptedLinear) for p in (m.A, m.B)]
