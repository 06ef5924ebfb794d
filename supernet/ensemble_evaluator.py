"""Trains and scores ensembles of sub-networks of one pretrained encoder that share their shallow layers (NEAS: Chen et
al., One-Shot Neural Ensemble Architecture Search, CVPR 2021). No strategy: which ensembles are asked for is for others.

    loss = Σ_k CE(y_k, labels)        ∂loss/∂trunk = (1/K) Σ_k ∂CE_k/∂trunk        prediction = (1/K) Σ_k y_k

y_k `(rows, classes)`: logits of member k. The trunk (embeddings and the layers below the split) runs once a forward.
All ensembles share the weights of the elastic encoder: a member's layer is the slice that its choice names.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from archrank.grammar import Derivation, EnsembleChoice, LayerChoice, Space
from archrank.supernet.checkpoint import Checkpoint
from archrank.supernet.elastic_encoder import ElasticEncoder
from archrank.supernet.net import ConfigurationError
from archrank.supernet.shared_trunk import diversity, divided, members_loss
from archrank.supernet.tasks import inputs_of
from archrank.supernet.training import Batches, Tick, TrainPlan, descend, only

__all__ = ["PROJECTION", "EnsembleEvaluator", "EnsembleScore", "coinciding_message", "entry_of", "root_of"]

PROJECTION = "embeddings_project"
"""What ELECTRA calls the layer between embeddings and layers of another width."""

_TRIES = 200


@dataclass(frozen=True)
class EnsembleScore:
    """Over all rows: mean cross-entropy in nats and accuracy of the mean of the members' logits, the members' own mean
    cross-entropies, and their diversity (mean pairwise Jensen–Shannon divergence in nats; 0 for one member).
    """

    loss: float
    accuracy: float
    diversity: float
    member_losses: tuple[float, ...] = field(default=())


def coinciding_message(pairs: Sequence[tuple[int, int]], split: int) -> str:
    """What is said of members that are one and the same."""
    told = ", ".join(f"{i} and {j}" for i, j in pairs)
    return f"members of the ensemble coincide from layer {split} on: {told}"


class EnsembleEvaluator:
    """Ensembles of `net`; `space`, bound to the same layers, says which there are (default: the net's own)."""

    def __init__(self, net: ElasticEncoder, space: Space | None = None) -> None:
        self.net, self.space = net, space or net.space
        if list(self.space.layers) != list(net.layers):
            raise ConfigurationError(
                f"the space {self.space.name!r} is not bound to the net's layers {', '.join(net.layers)}"
            )
        self.forwards = 0
        """Forward passes of the trunk so far: one a batch."""

    def members(self, d: Derivation | EnsembleChoice) -> EnsembleChoice:
        """The members of a candidate, checked against what the net holds."""
        choice = self.space.ensemble_choices(d) if isinstance(d, Derivation) else d
        return EnsembleChoice(choice.split, tuple(self.net.choices(member) for member in choice.members))

    # -- forward ----------------------------------------------------------------------------------------------------

    def logits(self, choice: EnsembleChoice, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """`(rows, classes)` of each member, in the shared weights."""
        net, many = self.net, len(choice.members)
        self.forwards += 1
        if many == 1:
            with net.attached(choice.members[0]):
                return [net.base(**inputs).logits]
        names = list(net.layers)
        held: list[Tensor] = []

        def keep(module: nn.Module, args: Any, output: Any) -> Any:
            states = divided(output[0] if isinstance(output, tuple) else output, many)
            held.append(states)
            return (states, *output[1:]) if isinstance(output, tuple) else states

        kept = [name for name in names[: choice.split] if choice.members[0][name].kept]
        entry = entry_of(net.base)
        last = net.base.get_submodule(kept[-1]) if kept else entry[-1]
        handle = last.register_forward_hook(keep)
        try:
            with net.attached(choice.members[0]):
                found = [net.base(**inputs).logits]
        finally:
            handle.remove()
        below = dict.fromkeys(names[: choice.split], LayerChoice(False))
        with ExitStack() as stack:
            for module in entry:
                stack.enter_context(_answering(module, held[0]))
            for member in choice.members[1:]:
                with net.attached({**member, **below}):
                    found.append(net.base(**inputs).logits)
        return found

    # -- training ---------------------------------------------------------------------------------------------------

    def drawn(
        self, seed: int, step: int, space: Space | None = None, accept: Callable[[Derivation], bool] | None = None
    ) -> Derivation:
        """The ensemble that is trained at a step, by the space's own probabilities; one that `accept` refuses, or whose
        members coincide, is drawn again, up to 200 times.
        """
        rng, source = np.random.default_rng((seed, step)), space or self.space
        for _ in range(_TRIES):
            d = source.sample(rng, 1)[0]
            if (accept is None or accept(d)) and not self.members(d).coinciding:
                break
        return d

    def train(
        self,
        batches: Batches,
        plan: TrainPlan,
        *,
        space: Space | None = None,
        accept: Callable[[Derivation], bool] | None = None,
        parameters: Sequence[nn.Parameter] | None = None,
        checkpoint: Checkpoint | None = None,
        tick: Tick | None = None,
    ) -> float:
        """One-shot training: an ensemble of `space` (default: the evaluator's) a step, `drawn` from (plan.seed, step).
        Returns the seconds spent, those before an interruption included.

        parameters: default the adapters; everything else is frozen meanwhile. Raises NonFiniteLoss; whatever `tick`
        raises passes through after a checkpoint was written.
        """
        net = self.net
        trained = list(net.adapters.parameters() if parameters is None else parameters)

        def gradient(step: int) -> Tensor:
            inputs, labels = _split(batches(step)[0], self._device)
            choice = self.members(self.drawn(plan.seed, step, space, accept))
            loss = members_loss(self.logits(choice, inputs), labels)
            if loss.requires_grad:  # a sub-network without adapters, and a head that is not trained, has no gradient
                loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()

        net.train()
        with only(net, trained):
            seconds = descend(trained, plan, gradient, checkpoint=checkpoint, tick=tick)
        net.eval()
        return seconds

    # -- scoring ----------------------------------------------------------------------------------------------------

    def score(
        self, d: Derivation | EnsembleChoice, data: Sequence[Mapping[str, Tensor]], *, warn: bool = True
    ) -> EnsembleScore:
        """Of one candidate on batches with labels, with inherited weights. Members that coincide are told by a warning,
        unless `warn` is off.
        """
        choice = self.members(d)
        if warn and choice.coinciding:
            warnings.warn(coinciding_message(choice.coinciding, choice.split), stacklevel=2)
        self.net.eval()
        return score_with(lambda inputs: self.logits(choice, inputs), data, self._device)

    @property
    def _device(self) -> torch.device:
        return next(self.net.base.parameters()).device


def score_with(
    member_logits: Callable[[dict[str, Tensor]], list[Tensor]],
    data: Sequence[Mapping[str, Tensor]],
    device: torch.device,
) -> EnsembleScore:
    """The score of whatever answers its members' logits; ConfigurationError where there are no rows."""
    count, correct, total, unlike, own = 0, 0.0, 0.0, 0.0, list[float]()
    with torch.no_grad():
        for batch in data:
            inputs, labels = _split(batch, device)
            each = member_logits(inputs)
            mean = each[0] if len(each) == 1 else torch.stack(each).mean(0)
            rows, count = len(labels), count + len(labels)
            own = own or [0.0] * len(each)
            own = [
                a + float(cross_entropy(y.double(), labels, reduction="sum")) for a, y in zip(own, each, strict=True)
            ]
            total += float(cross_entropy(mean.double(), labels, reduction="sum"))
            correct += float((mean.argmax(-1) == labels).sum())
            unlike += rows * float(diversity(each))
    if not count:
        raise ConfigurationError("a score needs at least one row with a label")
    return EnsembleScore(total / count, correct / count, unlike / count, tuple(a / count for a in own))


def root_of(model: nn.Module) -> Any:
    """The part of a transformers model with its embeddings, where a trunk begins."""
    root = getattr(model, "base_model", model)
    if not isinstance(getattr(root, "embeddings", None), nn.Module):
        raise ConfigurationError(f"{type(model).__name__} has no module `embeddings`, where a trunk begins")
    return root


def entry_of(model: nn.Module) -> list[nn.Module]:
    """The modules that make what enters the first layer: the embeddings, and ELECTRA's projection of them."""
    root = root_of(model)
    projection = getattr(root, PROJECTION, None)
    return [root.embeddings] + ([projection] if isinstance(projection, nn.Module) else [])


@contextmanager
def _answering(module: nn.Module, states: Tensor) -> Iterator[None]:
    """Inside, a module answers these states, whatever it is given."""

    def recalled(*args: object, **inputs: object) -> Tensor:
        return states

    before = vars(module).get("forward")
    vars(module)["forward"] = recalled
    try:
        yield
    finally:
        if before is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = before


def _split(batch: Mapping[str, Tensor], device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """(inputs without labels, labels)."""
    inputs = {key: value.to(device) for key, value in inputs_of(batch).items()}
    return inputs, batch["labels"].to(device)
