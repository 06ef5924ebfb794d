"""Everything that the phases of a search over an encoder's layers share, made and checked before the run's folder is
touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from archrank import grammar
from archrank.grammar import Derivation, LayerChoice
from archrank.search.base_job import BaseJob, load, wanted
from archrank.search.binding import tightened
from archrank.search.config import ConfigError, RunConfig
from archrank.search.encoder_pricing import CutPricer
from archrank.search.errors import NothingFeasible
from archrank.search.expression import Constraint
from archrank.search.pricing import latency_name
from archrank.search.serving import devices_of
from archrank.supernet import tasks as task_kinds
from archrank.supernet.base import check_layers
from archrank.supernet.elastic_encoder import ElasticEncoder, elastic_encoder

__all__ = ["IMPORTANCE_ROWS", "SANDWICH_SHARE", "EncoderJob", "prepare_encoders", "tuned_parameters"]

SANDWICH_SHARE = 0.6
"""Sandwich steps in units of one full fine-tune; each costs about 2.5 of the whole's, which is trained first."""
IMPORTANCE_ROWS = 512


@dataclass(frozen=True)
class EncoderJob(BaseJob):
    """A checked run: what is asked, on what, and with which parts."""

    net: ElasticEncoder
    pricer: CutPricer

    def choices(self, derivation: Derivation) -> dict[str, LayerChoice]:
        """What a candidate does to each layer."""
        return self.net.choices(derivation)

    def importance_batches(self) -> list[Mapping[str, Tensor]]:
        """The training rows that heads and channels are ordered on."""
        assert self.config.batch_size is not None
        many = max(1, min(IMPORTANCE_ROWS, self.data.size("train")) // self.config.batch_size)
        return [self.batches(self.config.seed)(step)[0] for step in range(many)]

    def score(self, choices: Mapping[str, LayerChoice]) -> dict[str, float]:
        """Mean loss and accuracy of a sub-network on `--eval-rows` validation rows, the same for all."""
        self.net.select(choices)
        try:
            return self.measured(self.net, self.rows("validation", self.config.eval_rows))
        finally:
            self.net.reset()

    def header(self) -> dict[str, object]:
        """The first line of trials.jsonl beside its schema: all that is needed to read the run without a model."""
        from archrank.search.summary import base_header

        layers = {n: [s.hidden, s.heads, s.head, s.ffn] for n, s in self.space.layers.items()}
        return base_header(self) | {
            "kind": "encoders", "sites": {}, "constants": {}, "layers": layers, "length": self.pricer.length,
        }  # fmt: skip


def prepare_encoders(config: RunConfig) -> EncoderJob:
    """Loads and checks everything; cheap checks first. EncoderError, before any weight is read, for a base whose layers
    do not show heads and FFN.
    """
    from archrank.search import strategies

    space = grammar.load(config.space)
    _check_flags(config, space.name)
    check_layers(config.base)
    devices = devices_of(config)
    strategies.load(config.strategy)
    cost = tuple(latency_name(d, list(devices)) for d in devices) or ("flops",)
    asked = wanted(config, devices, ("loss", *cost))
    if asked.objectives[0].name not in ("loss", "accuracy"):
        raise ConfigError(
            f"--objective {asked.objectives[0].name}: the first objective is the quality: loss or accuracy"
        )
    loaded = load(config, devices)
    config, base = loaded.config, loaded.base
    _check_task(config.task, space.name)
    net = elastic_encoder(base.model, space, seed=config.seed)
    pricer = CutPricer.of(config, base.model, net.layers, devices)
    own = [c for c in asked.constraints if c.name == "adapter_params"]  # the others hold with the rest of the model
    net.space = tightened(net.space, own)
    _check_feasible(pricer, net, asked.constraints)
    return EncoderJob(
        config=config,
        space=net.space,
        base=base,
        data=loaded.data,
        task=task_kinds.load(loaded.data.task),
        objectives=asked.objectives,
        constraints=asked.constraints,
        warnings=(),
        net=net,
        pricer=pricer,
    )


def _check_task(task: str | None, name: str) -> None:
    if task is not None and task_kinds.load(task).per_token:
        raise ConfigError(f"--task {task}: {name} cuts encoders that classify; choose a classification task")


def _check_flags(config: RunConfig, name: str) -> None:
    """ConfigError for a flag that such a run cannot follow."""
    _check_task(config.task, name)
    if config.target_modules is not None:
        raise ConfigError(f"--target-modules {config.target_modules}: {name} cuts and adapts all layers of the base")
    if config.deploy == "vllm":
        raise ConfigError(
            f"--deploy vllm: {name} cuts encoders, which vLLM does not serve with adapters; choose merged"
        )
    if config.evaluate == "train":
        raise ConfigError(
            "--evaluate train: an encoder's candidates start from the pretrained weights; finalists are fine-tuned"
        )
    if config.accumulate > 1 or config.gradient_checkpointing:
        flag = "--accumulate" if config.accumulate > 1 else "--gradient-checkpointing"
        raise ConfigError(f"{flag}: sandwich training of {name} has no such mode; leave it out")


def _check_feasible(pricer: CutPricer, net: ElasticEncoder, constraints: Sequence[Constraint]) -> None:
    """NothingFeasible where even a base without any layer is too dear."""
    cheapest = pricer.price({name: LayerChoice(False) for name in net.layers})
    for c in constraints:
        if c.op in ("<=", "<") and c.name in cheapest and not c.holds(cheapest):
            raise NothingFeasible(f"{c} cannot hold: with every layer dropped {c.name} is still {cheapest[c.name]:.4g}")


def tuned_parameters(job: EncoderJob) -> list[torch.nn.Parameter] | None:
    """What the supernet trains: None, the adapters; or with `--tune all` the encoder's own weights too."""
    return list(job.net.parameters()) if job.config.tune == "all" else None
