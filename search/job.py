"""Everything that the phases of a run share, made and checked before the run's folder is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from archrank import grammar, predictors
from archrank.search.binding import tightened
from archrank.search.config import ConfigError, RunConfig
from archrank.search.errors import NothingFeasible
from archrank.search.expression import Constraint, parse_where
from archrank.search.objective import KNOWN, Objective, parse_objectives
from archrank.search.pricing import Pricer, latency_name
from archrank.search.scoring import score
from archrank.search.serving import check_dtype, check_measurable, default_dtype, devices_of, torch_device
from archrank.supernet import data as datasets
from archrank.supernet import policies
from archrank.supernet import tasks as task_kinds
from archrank.supernet.base import Base, check_base, load_base
from archrank.supernet.export import Home
from archrank.supernet.modules import target_modules
from archrank.supernet.net import Elastic, elastic
from archrank.supernet.policies.base import Policy
from archrank.supernet.tracing import trace

__all__ = ["Job", "new_parameters", "prepare"]

# The supernet trains this many times one full fine-tune. The pilot advised 3 or more; at equal total steps, 2 and
# longer finalists were measured to be better spent (docs/supernet.md).
SUPERNET_RUNS = 2
EVALUATION_ROWS = 256  # rows of one evaluation batch
TINY = 1_000_000  # parameters below which threads wait for each other longer than they compute


@dataclass(frozen=True)
class Job:
    """A checked run: what is asked, on what, and with which parts."""

    config: RunConfig
    space: grammar.Space
    base: Base
    data: datasets.TaskData
    task: task_kinds.Task
    net: Elastic
    policy: Policy
    pricer: Pricer
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    warnings: tuple[str, ...]

    @property
    def train_steps(self) -> int:
        """Steps of one full fine-tune."""
        assert self.config.train_steps is not None
        return self.config.train_steps

    @property
    def home(self) -> Home:
        """What exports say of the base."""
        return Home(self.base.name_or_path, self.task.peft_task, self.base.new_head, self.base.processor)

    def ranks(self, derivation: grammar.Derivation) -> dict[str, int]:
        """{module: rank} of a candidate."""
        return {name: adapter.rank for name, adapter in self.space.adapters(derivation).items()}

    def batches(self, seed: int) -> _Batches:
        """Training batches as a function of the step."""
        assert self.config.batch_size is not None
        return _Batches(self.data, seed, self.config.batch_size)

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

    def loss(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean over the rows."""
        return self.task.row_losses(logits, batch).mean()

    def rows(self, split: str, most: int | None = None) -> list[dict[str, Tensor]]:
        """A split as batches, or `most` of its rows that are the same for all."""
        index = np.arange(self.data.size(split))
        if most is not None and len(index) > most:
            index = np.sort(np.random.default_rng(0).permutation(len(index))[:most])
        parts = [index[low : low + EVALUATION_ROWS] for low in range(0, len(index), EVALUATION_ROWS)]
        return [self.data.batch(split, part) for part in parts]

    def score(self, net: Elastic, split: str, ranks: Mapping[str, int] | None = None) -> dict[str, float]:
        """Mean loss and accuracy over a split.

        `ranks`: of that sub-network of a supernet, on `--eval-rows` rows that are the same for all, from the first
        layer in which it differs from one that was scored before; None: of the net as it is, on all rows.
        """
        return score(net, self.task, self.rows(split, None if ranks is None else self.config.eval_rows), ranks)


@dataclass(frozen=True)
class _Batches:
    data: datasets.TaskData
    seed: int
    rows: int

    def __call__(self, step: int) -> tuple[Mapping[str, Tensor], NDArray[np.int64]]:
        index = datasets.order(self.seed, step, self.rows, self.data.size("train"))
        # the position in the stream, not the row, draws the ranks: a row that comes again in a later epoch meets other
        # ones
        return self.data.batch("train", index), step * self.rows + np.arange(len(index))


def prepare(config: RunConfig) -> Job:
    """Loads and checks everything; cheap checks first, so that a typing error does not wait for a model."""
    space = grammar.load(config.space)
    if not space.is_site_space:
        raise ConfigError(
            f"the space {space.name!r} adapts no base: this version runs site "
            "spaces (//@ target_modules, such as lora_ranks); "
            "sample it with `search sample`"
        )
    devices = devices_of(config)
    _check_strategy(config.strategy)
    policy_class = policies.load(config.policy)
    names = [*KNOWN, *(latency_name(d, list(devices)) for d in devices)]
    objectives = parse_objectives(config.objective or _default_objectives(config, list(devices)), names)
    constraints = tuple(c for w in config.where for c in parse_where(w, names))
    check_measurable([o.name for o in objectives] + [c.name for c in constraints], config)
    device = torch_device(config.device)

    if config.base is not None:
        check_base(config.base)
    raw = (
        datasets.read_dataset(config.data, config.task, columns=_columns(config))
        if config.data or config.base is None
        else None
    )
    if raw is None:
        raise ConfigError("--base needs --data: a folder, a file, a hub name or a built-in name")
    base = load_base(
        config.base,
        config.task or raw.task,
        label_names=raw.label_names,
        compute_dtype=config.compute_dtype,
        device=str(device),
        seed=config.seed,
    )
    config = replace(config, max_length=min(config.max_length, _positions(base)))
    data = datasets.prepare(raw, base, max_length=config.max_length)
    config = _resolved(config, base, data, devices)

    assert config.threads is not None
    torch.set_num_threads(config.threads)
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
    warnings = tuple(_dropped(objectives, constants, config.deploy))
    kept = tuple(o for o in objectives if o.name not in constants)
    if not kept:
        raise ConfigError(f"nothing to search for: {warnings[0] if warnings else 'no objective'}")
    for c in constraints:
        if c.name in constants and not c.holds(constants):
            raise NothingFeasible(
                f"{c} cannot hold: {config.deploy}, {c.name} is {constants[c.name]:.4g} for every candidate"
            )
    return Job(
        config,
        tightened(bound, constraints),
        base,
        data,
        task_kinds.load(data.task),
        net,
        policy,
        pricer,
        kept,
        constraints,
        warnings,
    )


def _default_objectives(config: RunConfig, devices: list[str]) -> tuple[str, ...]:
    latencies = () if config.deploy == "merged" else tuple(latency_name(d, devices) for d in devices)
    return ("loss", "adapter_params", *latencies)


def _check_strategy(name: str) -> None:
    from archrank.search import strategies

    strategies.load(name)


def _positions(base: Base) -> int:
    """Tokens that the base has positions for; no limit where its configuration names none."""
    text = base.settings.get_text_config()
    return int(getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None) or 2**31)


def _columns(config: RunConfig) -> dict[str, str]:
    pairs = [c.partition("=") for c in config.columns]
    for role, equals, column in pairs:
        if not (role and equals and column):
            raise ConfigError(f"--columns {role}{equals}{column}: write ROLE=COLUMN, as in text=sentence")
    return {role: column for role, _, column in pairs}


def _resolved(
    config: RunConfig, base: Base, data: datasets.TaskData, devices: Mapping[str, predictors.Device]
) -> RunConfig:
    """What the user left open, chosen; the embedded base's choices are those its benchmark was tuned with."""
    batch = config.batch_size or 32
    epoch = -(-data.size("train") // batch)
    return replace(
        config.with_defaults(
            {
                "batch_size": batch,
                "train_steps": 600 if base.embedded else min(2000, max(100, 3 * epoch)),
                "lr": 1e-2 if base.embedded else 1e-3,
                "serve_dtype": default_dtype(devices),
                "serve_seq": config.max_length,
                "task": data.task,
                "threads": 1 if sum(p.numel() for p in base.model.parameters()) < TINY else torch.get_num_threads(),
            }
        ),
        base=config.base and str(Path(config.base).resolve())
        if config.base and Path(config.base).exists()
        else config.base,
        data=str(Path(config.data).resolve()) if config.data and Path(config.data).exists() else config.data,
    )


def _pricer(config: RunConfig, base: Base, net: Elastic, devices: Mapping[str, predictors.Device]) -> Pricer:
    assert config.serve_seq is not None
    assert config.serve_dtype is not None
    check_dtype(config, devices)
    bare = trace(base.model, batch=config.serve_batch, seq=config.serve_seq)
    params = sum(p.numel() for p in base.model.parameters())
    return Pricer(bare, net.shapes, devices, config.deploy, config.serve_dtype, bare.rows, params)


def _dropped(objectives: Sequence[Objective], constants: Mapping[str, float], deploy: str) -> list[str]:
    return [
        f"{o.name} is {constants[o.name]:.4g} for every candidate once {deploy}: a constant, not an objective"
        for o in objectives
        if o.name in constants
    ]


def new_parameters(base: Base) -> list[nn.Parameter]:
    """The parameters that the checkpoint did not hold: trained once, then shared by all candidates."""
    return [p for name in base.new_head for p in base.model.get_submodule(name).parameters()]
