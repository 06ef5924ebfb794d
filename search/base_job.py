"""What runs over a pretrained base have in common, whatever they search: the base, the data, batches, the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from archrank import grammar, predictors
from archrank.search.config import ConfigError, RunConfig
from archrank.search.expression import Constraint, parse_where
from archrank.search.objective import KNOWN, Objective, parse_objectives
from archrank.search.pricing import latency_name
from archrank.search.serving import check_dtype, check_measurable, default_dtype, torch_device
from archrank.supernet import data as datasets
from archrank.supernet import tasks as task_kinds
from archrank.supernet.base import Base, check_base, load_base
from archrank.supernet.narrow import fitting_dtype

__all__ = ["BaseJob", "Loaded", "Wanted", "load", "new_parameters", "wanted"]

EVALUATION_ROWS = 256  # rows of one evaluation batch
TINY = 1_000_000  # parameters below which threads wait for each other longer than they compute


@dataclass(frozen=True)
class Wanted:
    """What a run is to find, parsed: on which devices, by which objectives, under which constraints."""

    devices: Mapping[str, predictors.Device]
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]


def wanted(config: RunConfig, devices: Mapping[str, predictors.Device], default: Iterable[str]) -> Wanted:
    """The objectives (`default` where none is asked for) and constraints; errors name what is unknown, or needs a
    device and has none.
    """
    names = [*KNOWN, *(latency_name(d, list(devices)) for d in devices)]
    objectives = parse_objectives(config.objective or tuple(default), names)
    constraints = tuple(c for w in config.where for c in parse_where(w, names))
    check_measurable([o.name for o in objectives] + [c.name for c in constraints], config)
    torch_device(config.device)
    return Wanted(devices, objectives, constraints)


@dataclass(frozen=True)
class Loaded:
    """A base and the data, and the configuration with what the run chose."""

    config: RunConfig
    base: Base
    data: datasets.TaskData


def load(config: RunConfig, devices: Mapping[str, predictors.Device]) -> Loaded:
    """Loads and checks a base and data; the number of threads is set. ConfigError, BaseModelError or DataError."""
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
        device=str(torch_device(config.device)),
        seed=config.seed,
    )
    config = replace(config, max_length=min(config.max_length, _positions(base)))
    data = datasets.prepare(raw, base, max_length=config.max_length)
    config = _resolved(config, base, data, devices)
    assert config.threads is not None
    torch.set_num_threads(config.threads)
    check_dtype(config, devices)
    return Loaded(config, base, data)


@dataclass(frozen=True)
class BaseJob:
    """A checked run over a base: what is asked, on what."""

    config: RunConfig
    space: grammar.Space
    base: Base
    data: datasets.TaskData
    task: task_kinds.Task
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    warnings: tuple[str, ...]

    @property
    def train_steps(self) -> int:
        """Steps of one full fine-tune."""
        assert self.config.train_steps is not None
        return self.config.train_steps

    def batches(self, seed: int) -> Batches:
        """Training batches as a function of the step."""
        assert self.config.batch_size is not None
        return Batches(self.data, seed, self.config.batch_size)

    def loss(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean over the rows."""
        return self.task.row_losses(logits, batch).mean()

    def rows(self, split: str, most: int | None = None) -> list[dict[str, Tensor]]:
        """A split's batches, with labels; `most` of its rows, the same each time."""
        index = np.arange(self.data.size(split))
        if most is not None and len(index) > most:
            index = np.sort(np.random.default_rng(0).permutation(len(index))[:most])
        parts = [index[low : low + EVALUATION_ROWS] for low in range(0, len(index), EVALUATION_ROWS)]
        device = next(self.base.model.parameters()).device
        return [{k: v.to(device) for k, v in self.data.batch(split, part).items()} for part in parts]

    def told(
        self,
        batches: Sequence[Mapping[str, Tensor]],
        answer: Callable[[list[dict[str, Tensor]], Callable[[Any, int], task_kinds.Totals]], list[task_kinds.Totals]],
    ) -> dict[str, float]:
        """Mean loss and accuracy over `batches`; answer(inputs, read): read(output, number of the batch) of each."""
        inputs = [task_kinds.inputs_of(batch) for batch in batches]

        def read(output: Any, place: int) -> task_kinds.Totals:
            return self.task.totals(output.logits, batches[place])

        totals = answer(inputs, read)
        loss, correct, count = (sum(getattr(t, name) for t in totals) for name in ("loss", "correct", "count"))
        return {"loss": loss / count, "accuracy": correct / count}

    def measured(self, model: nn.Module, batches: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
        """The same of a model as it is."""
        model.eval()
        with torch.no_grad():
            return self.told(batches, lambda inputs, read: [read(model(**x), i) for i, x in enumerate(inputs)])


@dataclass(frozen=True)
class Batches:
    """Step → (rows of the step, their positions in the stream).

    answers: `(training rows, classes)` logits that come with each row, to learn from (supernet/teaching.py).
    """

    data: datasets.TaskData
    seed: int
    rows: int
    answers: Tensor | None = None

    def __call__(self, step: int) -> tuple[Mapping[str, Tensor], NDArray[np.int64]]:
        """The position in the stream, not the row, draws the ranks: a row that comes again in a later epoch meets other
        ones.
        """
        index = self.index(step)
        batch = self.data.batch("train", index)
        if self.answers is not None:
            batch = {**batch, task_kinds.TEACHER: self.answers[torch.from_numpy(index).to(self.answers.device)]}
        return batch, step * self.rows + np.arange(len(index))

    def index(self, step: int) -> NDArray[np.int64]:
        """The training rows of a step."""
        return datasets.order(self.seed, step, self.rows, self.data.size("train"))

    def met(self, steps: int) -> NDArray[np.int64]:
        """The training rows that so many steps meet, ascending."""
        return np.unique(np.concatenate([self.index(step) for step in range(steps)]))


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
                "train_steps": 1600 if base.embedded else min(2000, max(100, 3 * epoch)),
                "lr": 1e-2 if base.embedded else 1e-3,
                "serve_dtype": default_dtype(devices),
                "serve_seq": config.max_length,
                "task": data.task,
                "evaluate_dtype": config.compute_dtype if config.compute_dtype == "bf16" else fitting_dtype(base.model),
                "threads": 1 if sum(p.numel() for p in base.model.parameters()) < TINY else torch.get_num_threads(),
            }
        ),
        base=config.base and str(Path(config.base).resolve())
        if config.base and Path(config.base).exists()
        else config.base,
        data=str(Path(config.data).resolve()) if config.data and Path(config.data).exists() else config.data,
    )


def new_parameters(base: Base) -> list[nn.Parameter]:
    """The parameters that the checkpoint did not hold: trained once, then shared by all candidates."""
    return [p for name in base.new_head for p in base.model.get_submodule(name).parameters()]
