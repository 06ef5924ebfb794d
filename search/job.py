"""Everything that the phases of a rank run share, made and checked before the run's folder is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from archrank import grammar, predictors
from archrank.search.base_job import TINY, BaseJob, load, new_parameters, wanted
from archrank.search.binding import tightened
from archrank.search.config import ConfigError, RunConfig
from archrank.search.errors import NothingFeasible
from archrank.search.objective import Objective
from archrank.search.pricing import Pricer, latency_name
from archrank.search.serving import devices_of
from archrank.supernet import policies
from archrank.supernet import tasks as task_kinds
from archrank.supernet.base import Base
from archrank.supernet.modules import target_modules
from archrank.supernet.net import Elastic, elastic
from archrank.supernet.policies.base import Policy
from archrank.supernet.tracing import trace

__all__ = ["Job", "new_parameters", "prepare"]

# The supernet trains this many times one full fine-tune. The pilot advised 3 or more; at equal total steps, 2 and
# longer finalists were measured to be better spent (docs/supernet.md).
SUPERNET_RUNS = 2


@dataclass(frozen=True)
class Job(BaseJob):
    """A checked rank run: what is asked, on what, and with which parts."""

    net: Elastic
    policy: Policy
    pricer: Pricer

    def ranks(self, derivation: grammar.Derivation) -> dict[str, int]:
        """{module: rank} of a candidate."""
        return {name: adapter.rank for name, adapter in self.space.adapters(derivation).items()}

    @property
    def trains_together(self) -> bool:
        """Whether candidates are fine-tuned in one pass: on the CPU, on a base so small that calls cost as much as
        arithmetic, and without dropout, whose masks would be others.
        """
        settings = self.base.settings.to_dict()
        drops = any(v for k, v in settings.items() if "drop" in k and isinstance(v, int | float))
        small = sum(p.numel() for p in self.base.model.parameters()) < TINY
        plain = self.config.accumulate == 1 and not self.config.gradient_checkpointing
        on_cpu = next(self.base.model.parameters()).device.type == "cpu"
        return small and plain and on_cpu and self.config.compute_dtype == "fp32" and not drops

    def score(self, net: Elastic, split: str) -> dict[str, float]:
        """Mean loss and accuracy of the net as it is, over all rows of a split."""
        return self.measured(net, self.rows(split))


def prepare(config: RunConfig) -> Job:
    """Loads and checks everything; cheap checks first, so that a typing error does not wait for a model."""
    from archrank.search import strategies

    space = grammar.load(config.space)
    if not space.is_site_space:
        raise ConfigError(
            f"the space {space.name!r} adapts no base: this version runs site "
            "spaces (//@ target_modules, such as lora_ranks); "
            "sample it with `search sample`"
        )
    devices = devices_of(config)
    strategies.load(config.strategy)
    policy_class = policies.load(config.policy)
    asked = wanted(config, devices, _default_objectives(config, list(devices)))
    loaded = load(config, devices)
    config, base = loaded.config, loaded.base
    shapes = target_modules(base.model, config.target_modules or space.target_modules or "all-linear", base.new_head)
    bound = space.bind(shapes)
    net = elastic(base.model, bound, seed=config.seed)
    policy = policy_class(net.shapes, net.r_max, config.seed, ranks=[0, *bound.ranks])
    if config.gradient_checkpointing:
        net.enable_gradient_checkpointing()
    pricer = _pricer(config, base, net, devices)
    misfit = pricer.too_large(pricer.price({}))
    if misfit:
        raise NothingFeasible(misfit)
    constants = pricer.constants()
    warnings = tuple(_dropped(asked.objectives, constants, config.deploy))
    kept = tuple(o for o in asked.objectives if o.name not in constants)
    if not kept:
        raise ConfigError(f"nothing to search for: {warnings[0] if warnings else 'no objective'}")
    for c in asked.constraints:
        if c.name in constants and not c.holds(constants):
            raise NothingFeasible(
                f"{c} cannot hold: {config.deploy}, {c.name} is {constants[c.name]:.4g} for every candidate"
            )
    return Job(
        config=config,
        space=tightened(bound, asked.constraints),
        base=base,
        data=loaded.data,
        task=task_kinds.load(loaded.data.task),
        objectives=kept,
        constraints=asked.constraints,
        warnings=warnings,
        net=net,
        policy=policy,
        pricer=pricer,
    )


def _default_objectives(config: RunConfig, devices: list[str]) -> tuple[str, ...]:
    latencies = () if config.deploy == "merged" else tuple(latency_name(d, devices) for d in devices)
    return ("loss", "adapter_params", *latencies)


def _pricer(config: RunConfig, base: Base, net: Elastic, devices: Mapping[str, predictors.Device]) -> Pricer:
    assert config.serve_seq is not None
    assert config.serve_dtype is not None
    bare = trace(base.model, batch=config.serve_batch, seq=config.serve_seq)
    params = sum(p.numel() for p in base.model.parameters())
    return Pricer(bare, net.shapes, devices, config.deploy, config.serve_dtype, bare.rows, params)


def _dropped(objectives: Sequence[Objective], constants: Mapping[str, float], deploy: str) -> list[str]:
    return [
        f"{o.name} is {constants[o.name]:.4g} for every candidate once {deploy}: a constant, not an objective"
        for o in objectives
        if o.name in constants
    ]
