"""What a population of sub-networks loses on a data set, with the weights they share.

Every method gives the loop's losses; docs/supernet.md says when each is the fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from archrank.supernet import costs
from archrank.supernet.chain import NoChain
from archrank.supernet.fingerprint import fingerprint
from archrank.supernet.narrow import COMPUTE_DTYPES, fitting_dtype, narrowed, narrowed_batch
from archrank.supernet.population import Population, Vector, Way, distinct_nodes

if TYPE_CHECKING:
    from archrank.supernet.net import Config, Elastic
    from archrank.supernet.racing import Race

__all__ = [
    "EvaluationError",
    "Evaluator",
    "evaluate",
    "evaluation_methods",
    "loss_of",
    "read_in_turn",
    "read_population",
    "rows_of",
    "stacked",
]

T = TypeVar("T")

STATE_BYTES = 1 << 28
"""Hidden states in flight."""
WEIGHT_BYTES = 1 << 30
"""Merged weights at a time."""
MERGED_ERROR = 3e-7
"""Of a loss, times its size where that is above 1: with three probes below it, the largest of a hundred candidates
stays below 1e-6.
"""


class EvaluationError(ValueError):
    """A population that cannot be evaluated as asked."""


def evaluation_methods() -> tuple[str, ...]:
    """The exact ways to evaluate a population.

    `loop` runs one sub-network after the other; `gated` stacks candidates along the rows, one gate row each;
    `premerged` runs W + ΔW, merged in fp32 once for each module and rank (the branch where a probe shows that this
    rounds losses by more than 3e-7); `resume` runs a candidate from the first layer in which it differs from one that
    was run before, in this call or an earlier one. The last three run a prefix that candidates share once.
    """
    return ("loop", "gated", "premerged", "resume")


def evaluate(
    net: Elastic,
    configs: Sequence[Config],
    data: Sequence[Mapping[str, Tensor]],
    method: str = "auto",
    race: Race | None = None,
    compute_dtype: str = "fp32",
) -> Tensor:
    """`(n,)` mean losses: Σ rows · loss(batch) / Σ rows for each configuration, in fp64; the base model's own loss.

    `race`: hopeless candidates are stopped early and get inf (`race_evaluation.race_population` has their estimates).
    Errors: EvaluationError for an unknown method, a method that this base does not allow, data without labels or rows;
    ConfigurationError for a configuration that the net does not hold.
    """
    if race is not None:
        from archrank.supernet.race_evaluation import race_population

        raced = race_population(net, configs, data, race, method, compute_dtype)
        return torch.where(raced.dropped, torch.inf, raced.losses)
    rows = rows_of(data)
    each = read_population(net, configs, data, loss_of, method, compute_dtype)
    return torch.stack([stacked(row) @ rows / rows.sum() for row in each]) if configs else rows[:0]


def read_population(
    net: Elastic,
    configs: Sequence[Config],
    data: Sequence[Mapping[str, Tensor]],
    read: Callable[[Any, int], T],
    method: str = "auto",
    compute_dtype: str = "fp32",
) -> list[list[T]]:
    """`read(answer, place of the batch)` of the base's answer for each configuration (outer) and batch (inner), without
    gradients, in evaluation mode.
    """
    with Evaluator(net, method, data, compute_dtype).opened() as evaluator:
        vectors = evaluator.vectors(configs)
        columns = [evaluator.batch(vectors, i, batch, read) for i, batch in enumerate(data)]
    return [list(row) for row in zip(*columns, strict=True)] if configs else []


def read_in_turn(
    net: Elastic,
    config: Config,
    data: Sequence[Mapping[str, Tensor]],
    read: Callable[[Any, int], T],
    method: str = "auto",
    compute_dtype: str = "fp32",
) -> Generator[T, None, None]:
    """`read_population` of one configuration, batch by batch as the caller asks for more; close it to stop early."""
    with Evaluator(net, method, data, compute_dtype).opened() as evaluator:
        vectors = evaluator.vectors([config])
        for i, batch in enumerate(data):
            yield evaluator.batch(vectors, i, batch, read)[0]


class Evaluator:
    """One call: the way that was picked, and what its batches share."""

    def __init__(
        self, net: Elastic, method: str, data: Sequence[Mapping[str, Tensor]], compute_dtype: str = "fp32"
    ) -> None:
        if method not in ("auto", *evaluation_methods()):
            raise EvaluationError(
                f"no evaluation method {method!r}; there are: auto, {', '.join(evaluation_methods())}"
            )
        if compute_dtype not in COMPUTE_DTYPES:
            raise EvaluationError(f"no compute dtype {compute_dtype!r}; there are: {', '.join(COMPUTE_DTYPES)}")
        self.narrow = (fitting_dtype(net.base) if compute_dtype == "auto" else compute_dtype) == "bf16"
        self.net, self.method = narrowed(net) if self.narrow else net, method
        self.device = next(net.base.parameters()).device
        self.population: Population | None = None
        self.stackable = False
        self.way: Way | None = None
        self.first = data[0] if data else {}

    @contextmanager
    def opened(self) -> Iterator[Evaluator]:
        """Evaluation mode without gradients; every module's mode is put back."""
        modes = [(m, m.training) for m in self.net.modules() if m.training]
        self.net.eval()
        try:
            with torch.no_grad():
                if self.method != "loop":
                    self._prepare()
                yield self
        finally:
            for module, mode in modes:
                module.training = mode

    def _prepare(self) -> None:
        net = self.net
        try:
            chain, self.stackable = net.chain(self._moved(self.first))
        except NoChain as reason:
            if self.method == "auto":
                return
            raise EvaluationError(
                f"method {self.method!r} runs a base layer by layer, and this {type(net.base).__name__} does not allow "
                f"it: {reason}; use method='loop' or 'auto'"
            ) from None
        if self.method == "gated" and not self.stackable:
            raise EvaluationError(
                f"method 'gated' stacks candidates along the rows, and layers of this {type(net.base).__name__} do not "
                "see the batch as their first dimension; use method='resume' or 'auto'"
            )
        self.population = Population(
            chain, net.targets, [a for _, a in net.items()], net.states, STATE_BYTES, WEIGHT_BYTES
        )
        net.states.at(fingerprint([*net.base.parameters(), *net.base.buffers(), *net.adapters.parameters()]))

    def vectors(self, configs: Sequence[Config]) -> list[Vector]:
        """Configurations as ranks in model order."""
        each = [self.net.ranks(config) for config in configs]
        return [tuple(ranks.get(name, 0) for name in self.net.names) for ranks in each]

    def batch(
        self, vectors: Sequence[Vector], place: int, batch: Mapping[str, Tensor], read: Callable[[Any, int], T]
    ) -> list[T]:
        """`read` for each candidate on one batch."""
        if not vectors:
            return []
        inputs = self._moved(batch)
        if self.population is None:
            return [read(self.net(spectrum=self._spectrum(v), **inputs), place) for v in vectors]
        if self.way is None:
            # once for all batches: a way of its own for each would be another rounding in each
            self.way = self._pick(vectors, inputs)
            if self.way.merged and not self._merges(inputs):
                self.way = replace(self.way, merged=False)
        key = fingerprint(inputs[k] for k in sorted(inputs)) if self.way.keep else place
        return self.population.run(vectors, inputs, key, lambda answer: read(answer, place), self.way)

    def _pick(self, vectors: Sequence[Vector], inputs: Mapping[str, Tensor]) -> Way:
        assert self.population is not None
        chain = self.population.chain
        first = chain.record(inputs).first
        tokens = first.numel() // max(1, first.shape[-1])
        if self.method == "auto":
            return costs.choose(self.device.type, tokens, distinct_nodes(chain, vectors), stackable=self.stackable)
        if self.method == "gated":
            return Way(copies=costs.copies(self.device.type, tokens))
        if self.method == "premerged" and self.stackable and self.device.type == "cuda":
            # calls cost more than products there: each stacked candidate picks its weight inside one call
            return Way(copies=costs.copies("cuda", tokens), merged=True)
        return Way(merged=self.method == "premerged", keep=True)

    def _merges(self, inputs: Mapping[str, Tensor]) -> bool:
        """Whether W + ΔW gives the branch's losses within `MERGED_ERROR`, tried once for these weights.

        Both are fp32 roundings of one number; how far they are apart depends on how the base amplifies, up to several
        times 10⁻⁶ where weights are large. Probed are the largest rank, the half and 1 in every module.
        """
        assert self.population is not None
        states = self.net.states
        if states.merges is None:
            full = list(self.net.largest.values())
            probes = [tuple(max(1, r // part) for r in full) for part in (1, 2, max(full, default=1))]
            told = [self.population.run(probes, inputs, 0, _told, Way(merged=merged)) for merged in (True, False)]
            states.merges = all(
                bool(((a - b).abs() <= MERGED_ERROR * b.abs().clamp(min=1)).all()) for a, b in zip(*told, strict=True)
            )
        return states.merges

    def _spectrum(self, vector: Vector) -> Tensor:
        return self.net.spectrum_of(dict(zip(self.net.names, vector, strict=True))).to(self.device)

    def _moved(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        moved = {k: v.to(self.device) for k, v in batch.items()}
        return narrowed_batch(moved) if self.narrow else moved


def loss_of(answer: Any, place: int) -> Tensor:
    loss = getattr(answer, "loss", None)
    if not isinstance(loss, Tensor):
        raise EvaluationError(
            f"the base answers with a {type(answer).__name__} without a loss: population losses are the base's own, so "
            "it has to return .loss when it is given labels"
        )
    return loss


def _told(answer: Any) -> Tensor:
    """The loss, or the logits over the largest of them where there are no labels."""
    loss = getattr(answer, "loss", None)
    if isinstance(loss, Tensor):
        return loss.double().cpu()
    logits: Tensor = answer.logits
    return (logits / logits.abs().max()).double().cpu()


def stacked(losses: Sequence[Tensor]) -> Tensor:
    """One read of the device for all."""
    return torch.stack(list(losses)).double().cpu()


def rows_of(data: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Rows of each batch, fp64."""
    for i, batch in enumerate(data):
        if "labels" not in batch:
            raise EvaluationError(
                f"batch {i} has {', '.join(sorted(batch)) or 'nothing'}, and no labels: add them, one for each row"
            )
    rows = torch.tensor([len(batch["labels"]) for batch in data], dtype=torch.float64)
    if not rows.sum() > 0:
        raise EvaluationError(f"{len(data)} batches with no row in them: there is nothing to evaluate on")
    return rows
