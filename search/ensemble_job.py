"""A search over ensembles of sub-networks of a pretrained encoder: what its phases share, made and checked before the
run's folder is touched.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import nn

from archrank.grammar import Derivation, EnsembleChoice, LayerChoice
from archrank.grammar.workload import OpCost, Workload
from archrank.search.config import RunConfig
from archrank.search.encoder_job import EncoderJob, prepare_encoders
from archrank.search.pricing import latency_name
from archrank.supernet.ensemble_evaluator import EnsembleEvaluator, EnsembleScore, root_of, score_with
from archrank.supernet.ensembles import Ensemble
from archrank.supernet.space_shrinking import Shrinkage

__all__ = ["EnsembleJob", "prepare_ensembles", "values_of"]

SHRINK_SAMPLES = 40
"""Ensembles scored before options leave the space."""


@dataclass(frozen=True)
class EnsembleJob(EncoderJob):
    """A checked run; `tail` is the workload and parameters of what every member has beyond the layers: its head."""

    tail: Workload

    @property
    def evaluator(self) -> EnsembleEvaluator:
        """Trains and scores; it holds no state of its own but a count."""
        return EnsembleEvaluator(self.net, self.space)

    @property
    def recipe(self) -> Shrinkage | None:
        """How the space is shrunk; None where it is not."""
        if not self.config.shrink_rounds:
            return None
        weight = self.config.diversity_weight
        return Shrinkage(self.config.shrink_rounds, SHRINK_SAMPLES, weight=weight)

    def members(self, d: Derivation) -> EnsembleChoice:
        """The members of a candidate."""
        return self.evaluator.members(d)

    def price_members(self, choice: EnsembleChoice) -> dict[str, float]:
        """adapter_params, params, flops and, with a device, latency_ms and memory_bytes: the trunk once, every member's
        own layers and head.
        """
        pricer, first = self.pricer, choice.members[0]
        values = pricer.price(first)
        if len(choice.members) == 1:
            return values
        work, shared = pricer.workload(first), list(first)[: choice.split]
        below = dict.fromkeys(shared, LayerChoice(False))
        for member in choice.members[1:]:
            own = {**member, **below}
            added = pricer.workload(own).ops[len(pricer.rest.ops) :]
            weights = pricer.workload(own).weight_elements - pricer.rest.weight_elements + self.tail.weight_elements
            work = work + Workload((*added, *self.tail.ops), weights, 0)
            values["adapter_params"] += sum(pricer.layers[name].adapter_params(c) for name, c in own.items())
            values["params"] += weights
        values["flops"] = float(work.flops) / pricer.batch
        memory = None
        for name, device in pricer.devices.items():
            told = device.predict([work], dtype=pricer.dtype)
            values[latency_name(name, list(pricer.devices))] = float(told.ms[0])
            memory = float(told.memory_bytes[0]) if memory is None else memory
        return values if memory is None else {**values, "memory_bytes": memory}

    def header(self) -> dict[str, object]:
        """As an encoder run's, of its own kind."""
        return super().header() | {"kind": "ensembles"}

    def inherited(self, choice: EnsembleChoice) -> EnsembleScore:
        """Of a candidate with the shared weights, on `--eval-rows` validation rows, the same for all."""
        return self.evaluator.score(choice, self.rows("validation", self.config.eval_rows), warn=False)

    def tuned(self, module: Ensemble, split: str) -> EnsembleScore:
        """Of a module of its own, on all rows of a split."""
        module.eval()
        device = next(module.parameters()).device
        return score_with(lambda inputs: module.member_logits(**inputs), self.rows(split), device)


def values_of(score: EnsembleScore) -> dict[str, float]:
    """What a trial says of a score; a single network has no diversity."""
    told = {"loss": score.loss, "accuracy": score.accuracy}
    return told | ({"diversity": score.diversity} if len(score.member_losses) > 1 else {})


def prepare_ensembles(config: RunConfig) -> EnsembleJob:
    """Loads and checks everything, as `prepare_encoders`."""
    job = prepare_encoders(config)
    given = {f.name: getattr(job, f.name) for f in fields(job)}
    tail = _tail(job.base.model, next(iter(job.net.layers)).rpartition(".")[0], job.config.serve_batch)
    return EnsembleJob(**given, tail=tail)


def _tail(model: nn.Module, blocks: str, batch: int) -> Workload:
    """What a model runs behind its layers, on one position a row: its linear layers; all its parameters."""
    before = _prefix(model, root_of(model).embeddings)
    own = {
        name: module
        for name, module in model.named_modules()
        if not any(f"{name}.".startswith(f"{part}.") for part in (before, blocks))
    }
    ops = [
        OpCost.of("linear", {"m": batch, "n": module.out_features, "k": module.in_features})
        for module in own.values()
        if isinstance(module, nn.Linear)
    ]
    return Workload(tuple(ops), sum(p.numel() for m in own.values() for p in m.parameters(recurse=False)), 0)


def _prefix(model: nn.Module, wanted: nn.Module) -> str:
    return next(str(name) for name, module in model.named_modules() if module is wanted)
