"""Everything that the phases of a rank run share, made and checked before the run's folder is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archrank import grammar, predictors
from archrank.search import candidates
from archrank.search.base_job import TINY, BaseJob, load, new_parameters, wanted
from archrank.search.binding import tightened
from archrank.search.config import ConfigError, RunConfig
from archrank.search.errors import NothingFeasible
from archrank.search.expression import Constraint
from archrank.search.objective import Objective
from archrank.search.pricing import Pricer, latency_name, trained_params
from archrank.search.serving import devices_of
from archrank.supernet import data as datasets
from archrank.supernet import policies
from archrank.supernet import tasks as task_kinds
from archrank.supernet.base import Base
from archrank.supernet.export import unmergeable
from archrank.supernet.modules import target_modules
from archrank.supernet.net import Elastic, elastic
from archrank.supernet.policies.base import Policy
from archrank.supernet.policies.nls import NLS
from archrank.supernet.tracing import trace

__all__ = ["Job", "new_parameters", "prepare"]


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
    def family(self) -> str:
        """The adapter family of the space."""
        return candidates.family_of(self.space)

    @property
    def allowed_ranks(self) -> tuple[int, ...]:
        """The ranks of the space, 0 where a module may be left alone."""
        alone = any(option.family == "none" for option in self.space.site_options)
        return tuple(sorted({*self.space.ranks, *([0] if alone else [])}))

    def validation_batches(self, step: int) -> tuple[Mapping[str, Tensor], NDArray[np.int64]]:
        """Validation batches as a function of the step, for gates."""
        assert self.config.batch_size is not None
        index = datasets.order(self.config.seed + 7, step, self.config.batch_size, self.data.size("validation"))
        return self.data.batch("validation", index), step * self.config.batch_size + np.arange(len(index))

    @property
    def trains_together(self) -> bool:
        """Whether candidates are fine-tuned in one pass: LoRAs, on the CPU, on a base so small that calls cost as much
        as arithmetic, and without dropout, whose masks would be others.
        """
        settings = self.base.settings.to_dict()
        drops = any(v for k, v in settings.items() if "drop" in k and isinstance(v, int | float))
        small = sum(p.numel() for p in self.base.model.parameters()) < TINY
        plain = self.family == "lora" and self.config.accumulate == 1 and not self.config.gradient_checkpointing
        on_cpu = next(self.base.model.parameters()).device.type == "cpu"
        return small and plain and on_cpu and self.config.compute_dtype == "fp32" and not drops

    @property
    def tune_steps(self) -> int:
        """Steps of a finalist's fine-tune."""
        return max(1, round(self.policy.tune_share * self.train_steps))

    @property
    def teaches(self) -> bool:
        """Whether finalists learn the answers of what was trained: a whole adapter, with an answer a row."""
        return self.config.distill == "auto" and self.policy.teaches and not self.task.per_token

    def row_losses(self, net: Elastic, split: str) -> NDArray[np.float64]:
        """`(rows,)` cross-entropy of each row of a split."""
        found = []
        net.eval()
        with torch.no_grad():
            for batch in self.rows(split):
                answer: Any = net(**task_kinds.inputs_of(batch))
                found.append(self.task.row_losses(answer.logits, batch).double().cpu().numpy())
        rows: NDArray[np.float64] = np.concatenate(found)
        return rows

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
    if config.evaluate == "train":
        raise ConfigError(
            "--evaluate train: a rank search scores candidates with inherited weights and fine-tunes the best of them "
            "(--finalists, --train-steps); leave it out"
        )
    devices = devices_of(config)
    strategies.load(config.strategy)
    policy_name = config.policy or ("full" if candidates.family_of(space) == "lora" else "mixed")
    config = replace(config, policy=policy_name)
    _check_groups(config, policy_name)
    asked = wanted(config, devices, _default_objectives(config, list(devices)))
    loaded = load(config, devices)
    config, base = loaded.config, loaded.base
    shapes = target_modules(base.model, config.target_modules or space.target_modules or "all-linear", base.new_head)
    bound = space.bind(shapes)
    net = elastic(base.model, bound, seed=config.seed)
    policy = _policy(config, policy_name, net, [0, *bound.ranks])
    _check_policy(policy_name, policy, bound)
    _check_family(policy_name, policy, bound)
    if config.gradient_checkpointing:
        net.enable_gradient_checkpointing()
    pricer = _pricer(config, base, net, devices, bound)
    misfit = pricer.too_large(pricer.price({}))
    if misfit:
        raise NothingFeasible(misfit)
    constants = pricer.constants()
    dropped = _dropped(asked.objectives, constants, config.deploy)
    apart = _kept_apart(base, net) if config.deploy == "merged" else []
    kept = tuple(o for o in asked.objectives if o.name not in constants)
    if not kept:
        raise ConfigError(f"nothing to search for: {dropped[0] if dropped else 'no objective'}")
    for c in asked.constraints:
        if c.name in constants and not c.holds(constants):
            raise NothingFeasible(
                f"{c} cannot hold: {config.deploy}, {c.name} is {constants[c.name]:.4g} for every candidate"
            )
    _check_budget(bound, net.shapes, asked.constraints)
    return Job(
        config=config,
        space=tightened(bound, asked.constraints),
        base=base,
        data=loaded.data,
        task=task_kinds.load(loaded.data.task),
        objectives=kept,
        constraints=asked.constraints,
        warnings=(*dropped, *apart),
        net=net,
        policy=policy,
        pricer=pricer,
    )


def _default_objectives(config: RunConfig, devices: list[str]) -> tuple[str, ...]:
    latencies = () if config.deploy == "merged" else tuple(latency_name(d, devices) for d in devices)
    return ("loss", "adapter_params", *latencies)


def _check_budget(
    space: grammar.Space, shapes: Mapping[str, tuple[int, int]], constraints: Sequence[Constraint]
) -> None:
    """NothingFeasible where a bound on adapter_params leaves nothing but a base whose modules are all left alone."""
    if not any(option.family == "none" for option in space.site_options):
        return  # the space itself says so
    family = candidates.family_of(space)
    least = min(trained_params(family, shape, min(space.ranks)) for shape in shapes.values())
    for c in constraints:
        if c.name == "adapter_params" and c.op in ("<=", "<") and not c.holds({c.name: least}):
            raise NothingFeasible(
                f"{c} leaves the bare base alone: the smallest adapter, one module at rank {min(space.ranks)}, has "
                f"{least:,}; ask for at least that"
            )


def _check_groups(config: RunConfig, policy: str) -> None:
    """ConfigError for groups under a policy that has none; PolicyError for an unknown policy."""
    if not issubclass(policies.load(policy), NLS) and config.rank_group:
        raise ConfigError(
            f"--rank-group {config.rank_group[0]}: policy {policy} draws no ranks by groups; add --policy nls"
        )


def _policy(config: RunConfig, name: str, net: Elastic, ranks: Sequence[int]) -> Policy:
    found = policies.load(name)
    if issubclass(found, NLS):
        return found(net.shapes, net.r_max, config.seed, ranks=ranks, groups=config.rank_group)
    return found(net.shapes, net.r_max, config.seed, ranks=ranks)


def _check_policy(name: str, policy: Policy, space: grammar.Space) -> None:
    """ConfigError where a policy has nothing to draw or to switch in a space."""
    alone = any(option.family == "none" for option in space.site_options)
    if policy.switches_modules and not alone:
        raise ConfigError(
            f"--policy {name}: decides which modules carry an adapter at all, but the space {space.name!r} leaves none "
            'alone; give its site an option "none" -> none, or choose another policy'
        )
    positive = [int(r) for r in policy.ranks if r > 0]
    if len(positive) < 2 and not (alone and policy.draws_zero):
        raise ConfigError(
            f"--policy {name}: needs more than one rank to choose from, and the space {space.name!r} has "
            f"{', '.join(map(str, positive))} alone"
        )


def _kept_apart(base: Base, net: Elastic) -> list[str]:
    """What --deploy merged cannot have: weights that no adapter can be merged into."""
    reasons = unmergeable(base.model, net.names)
    if not reasons:
        return []
    return [
        f"{len(reasons)} of {len(net.names)} adapted modules cannot be merged: {next(iter(reasons.values()))}; "
        "--deploy unmerged prices them so"
    ]


def _check_family(name: str, policy: Policy, space: grammar.Space) -> None:
    """ConfigError where a policy asks more of the store than prefixes: only a LoRA can be cut and put together anew."""
    family = candidates.family_of(space)
    if family == "lora" or (policy.trains_prefixes() and policy.gradient_mask(0, [0]) is None):
        return
    good = [n for n in policies.available() if policies.load(n).trains_prefixes()]
    raise ConfigError(
        f"--policy {name}: weighs, orders or freezes single components, and the space {space.name!r} has {family}, "
        f"which can only be cut to a prefix; choose {', '.join(good[:-1])} or {good[-1]}"
    )


def _pricer(
    config: RunConfig, base: Base, net: Elastic, devices: Mapping[str, predictors.Device], bound: grammar.Space
) -> Pricer:
    assert config.serve_seq is not None
    assert config.serve_dtype is not None
    bare = trace(base.model, batch=config.serve_batch, seq=config.serve_seq)
    params = sum(p.numel() for p in base.model.parameters())
    family = candidates.family_of(bound)
    return Pricer(bare, net.shapes, devices, config.deploy, config.serve_dtype, bare.rows, params, family)


def _dropped(objectives: Sequence[Objective], constants: Mapping[str, float], deploy: str) -> list[str]:
    return [
        f"{o.name} is {constants[o.name]:.4g} for every candidate once {deploy}: a constant, not an objective"
        for o in objectives
        if o.name in constants
    ]
