"""Everything that the phases of an architecture search share, made and checked before the run's folder is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from archrank import grammar, predictors
from archrank.grammar import Architecture, Derivation
from archrank.grammar.heads import with_head
from archrank.search.binding import read_shape, tightened
from archrank.search.config import ConfigError, RunConfig
from archrank.search.expression import Constraint, parse_where
from archrank.search.objective import KNOWN, Objective, parse_objectives
from archrank.search.pricing import latency_name
from archrank.search.serving import check_dtype, check_measurable, default_dtype, devices_of, torch_device
from archrank.supernet import data as datasets
from archrank.supernet.data.images import image_shape, prepare_images
from archrank.supernet.networks import buildable
from archrank.supernet.space_shrinking import Shrinkage

__all__ = ["FINAL_SEEDS", "ArchitectureJob", "prepare_architectures", "search_steps"]

FINAL_SEEDS = 3
"""Trainings from scratch of each finalist."""
SEARCH_SHARE = 1 / 4
"""Of a full training: what a candidate trains on from the shared weights."""
MOST_FLOPS = 1e8
"""Of one row through a candidate of a recursive space, where the user bounds none: a space without end holds networks
that no one could train.
"""
MOST_ACTIVATION_BYTES = 2 * 2**20
"""Likewise of its largest single value."""
MOST_TRAIN_BYTES = 256 * 2**20
"""What training a candidate may hold: 4 bytes × (batch × everything that its ops write + 4 × parameters)."""


def search_steps(train_steps: int) -> int:
    """Steps of one candidate in the search."""
    return max(1, round(SEARCH_SHARE * train_steps))


@dataclass(frozen=True)
class ArchitectureJob:
    """A checked run: what is asked, on what, and with which parts."""

    config: RunConfig
    space: grammar.Space
    data: datasets.TaskData
    devices: Mapping[str, predictors.Device]
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    warnings: tuple[str, ...] = ()

    @property
    def train_steps(self) -> int:
        """Steps of one full training."""
        assert self.config.train_steps is not None
        return self.config.train_steps

    @property
    def recipe(self) -> Shrinkage | None:
        """How the space is shrunk on the way; None where it holds no ensembles, or no round is asked for."""
        if not self.config.shrink_rounds or "fork" not in self.space.op_names():
            return None
        return Shrinkage(self.config.shrink_rounds, weight=self.config.diversity_weight)

    @property
    def classes(self) -> int:
        """Classes of the data."""
        return len(self.data.label_names)

    def architecture(self, d: Derivation) -> Architecture:
        """A candidate's network with its classification head."""
        return with_head(self.space.elaborate(d), self.classes)

    def too_large(self, architecture: Architecture) -> str | None:
        """Why a candidate is not trained, where its training would hold too much."""
        assert self.config.batch_size is not None
        written = sum(op.written for op in architecture.ops)
        held = 4 * (self.config.batch_size * written + 4 * architecture.params)
        if held <= MOST_TRAIN_BYTES:
            return None
        most = MOST_TRAIN_BYTES / 2**20
        return f"training it would hold {held / 2**20:,.0f} MiB at this --batch-size; one gets at most {most:.0f}"

    def price(self, architecture: Architecture) -> dict[str, float]:
        """params, flops (2 × multiply-adds of one row), activation_bytes and, with a device, latency_ms and
        memory_bytes at the served batch; closed forms.
        """
        assert self.config.serve_dtype is not None
        values = {
            "params": float(architecture.params),
            "flops": float(architecture.flops),
            "activation_bytes": float(architecture.activation_bytes),
        }
        if self.devices:
            work = architecture.workload(self.config.serve_batch)
            for name, device in self.devices.items():
                told = device.predict([work], dtype=self.config.serve_dtype)
                values[latency_name(name, list(self.devices))] = float(told.ms[0])
                values.setdefault("memory_bytes", float(told.memory_bytes[0]))
        return values

    def header(self) -> dict[str, object]:
        """The first line of trials.jsonl beside its schema: all that is needed to read the run."""
        from archrank.search.summary import machine, versions

        return {
            "kind": "architectures",
            "seed": self.config.seed,
            "versions": versions(),
            "space": self.space.name,
            "size": str(self.space.size()) if self.space.is_finite else "infinite",
            "objectives": [f"{o.name}:{o.direction}" for o in self.objectives],
            "labels": list(self.data.label_names),
            "input": list(self.space.input or ()),
            "sites": {},
            "base": {"name": "none", "sha256": ""},
            "data": {
                "name": self.data.name,
                "sha256": self.data.fingerprint,
                "rows": {s: self.data.size(s) for s in ("train", "validation", "test")},
            },
            "constants": {},
            "deploy": {
                "how": "network",
                "dtype": self.config.serve_dtype,
                "batch": self.config.serve_batch,
                "devices": list(self.config.hw),
            },
            "machine": machine(self.config.device),
            "warnings": list(self.warnings),
        }


def prepare_architectures(config: RunConfig) -> ArchitectureJob:
    """Loads and checks everything; ConfigError, DataError or SpaceError before anything is trained."""
    from archrank.search import strategies

    space = grammar.load(config.space)
    if config.base is not None:
        raise ConfigError(f"--base {config.base}: {space.name} is a space of networks, which start from nothing")
    if config.policy is not None:
        raise ConfigError(
            f"--policy {config.policy}: policies draw the ranks of adapters, and the space {space.name!r} is one of "
            "networks; leave it out"
        )
    missing = buildable(space)
    if missing:
        raise ConfigError(
            f"{space.name}: no torch module for {', '.join(missing)}; decorate a torch.nn.Module class with ar.op in a "
            "file given by --ops"
        )
    devices = devices_of(config)
    torch_device(config.device)
    strategies.load(config.strategy)
    names = [n for n in KNOWN if n != "adapter_params"] + [latency_name(d, list(devices)) for d in devices]
    names.append("activation_bytes")
    asked = config.objective or ("loss", latency_name(config.hw[0], list(devices)) if devices else "params")
    objectives = parse_objectives(asked, names)
    constraints = tuple(c for w in config.where for c in parse_where(w, names))
    check_measurable([o.name for o in objectives] + [c.name for c in constraints], config)
    if objectives[0].name not in ("loss", "accuracy"):
        raise ConfigError(f"--objective {objectives[0].name}: the first objective is the quality: loss or accuracy")
    return _with_data(config, space, devices, objectives, constraints)


def _with_data(
    config: RunConfig,
    space: grammar.Space,
    devices: Mapping[str, predictors.Device],
    objectives: tuple[Objective, ...],
    constraints: tuple[Constraint, ...],
) -> ArchitectureJob:
    raw = datasets.read_dataset(config.data or "digits", config.task)
    shape = image_shape(raw, _shape(config.input), space.input)
    data = prepare_images(raw, shape)
    config = _resolved(config, data, devices)
    check_dtype(config, devices)
    assert config.threads is not None
    torch.set_num_threads(config.threads)
    bound = tightened(space.with_input(shape), constraints)
    warnings: tuple[str, ...] = ()
    if bound.is_recursive and not {"flops", "activation_bytes"} & {c.name for c in constraints}:
        bound = bound.within(flops=(None, MOST_FLOPS), activation_bytes=(None, MOST_ACTIVATION_BYTES))
        warnings = (
            f"candidates are held to flops <= {MOST_FLOPS / 1e6:.0f}M a row and activation_bytes <= "
            f"{MOST_ACTIVATION_BYTES / 2**20:.0f}MiB; --where bounds them otherwise",
        )
    return ArchitectureJob(config, bound, data, devices, objectives, constraints, warnings)


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    shape = read_shape(text)
    if len(shape) != 3:
        raise ConfigError(f"--input {text}: write channels x height x width, such as 3x32x32")
    return shape


def _resolved(config: RunConfig, data: datasets.TaskData, devices: Mapping[str, predictors.Device]) -> RunConfig:
    """What the user left open, chosen."""
    batch = config.batch_size or 32
    if batch < 2:
        raise ConfigError("--batch-size 1: batch normalisation needs at least 2 rows")
    epoch = -(-data.size("train") // batch)
    filled = config.with_defaults(
        {
            "batch_size": batch,
            "train_steps": min(4000, max(100, 12 * epoch)),
            "lr": 2e-3,
            "serve_dtype": default_dtype(devices),
            "task": data.task,
            "threads": 1,
        }
    )
    place = Path(config.data).resolve() if config.data and Path(config.data).exists() else None
    files = tuple(str(Path(file).resolve()) for file in config.ops)
    return replace(filled, data=str(place) if place else config.data, ops=files)
