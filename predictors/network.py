"""Whole networks: each distinct op of a population priced once, and a network's parts as a calibration sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archrank.grammar.workload import FORMS, Workload, dtype_bytes
from archrank.predictors import pricing, roofline
from archrank.predictors.calibration import PARTS, Parts, names_of
from archrank.predictors.learned import Learned
from archrank.predictors.profile import Profile
from archrank.predictors.tiles import Array

_Key = tuple[str, tuple[tuple[str, int], ...], str | None]
_FIGURES = 5
MOST = 200_000
"""Ops that a memo holds."""


@dataclass(frozen=True)
class Priced:
    """A population. Per distinct op: `ms`, `bound`, `factor` (of the interval), `parts` (ops, 5: `PARTS`), `elements`
    (activations), `kind` (place in `kinds`). Per use: `row` network, `op` which distinct op, `count`. `labels` name the
    user's own ops.
    """

    networks: int
    kinds: tuple[str, ...]
    kind: NDArray[np.intp]
    ms: Array
    bound: Array
    factor: Array
    parts: Array
    elements: Array
    flops: Array
    labels: tuple[str, ...]
    row: NDArray[np.intp]
    op: NDArray[np.intp]
    count: Array

    def total(self, each: Array) -> Array:
        """Σ count · each over the ops of each network: (ops,) -> (networks,)."""
        return np.bincount(self.row, self.count * each[self.op], self.networks).astype(np.float64)


class Memo(dict[tuple[_Key, str], Array]):
    """Rows of op prices, by op and dtype: `_FIGURES`, then the parts. Emptied where it holds `MOST` ops."""


def priced(
    profile: Profile, learned: Learned | None, workloads: Sequence[Workload], dtype: str, memo: Memo | None = None
) -> Priced:
    """Prices the distinct ops of `workloads` that `memo` does not hold, those of one op and dtype together."""
    columns: dict[_Key, int] = {}
    seen: dict[tuple[int, str, str | None], int] = {}  # equal sizes are mostly one object: its id hashes faster
    uses, counts, lengths = [], [], []
    labels: set[str] = set()
    for workload in workloads:
        lengths.append(len(workload.ops))
        for cost in workload.ops:
            near = (id(cost.dims), cost.op, cost.dtype)
            place = seen.get(near)
            if place is None:
                place = seen[near] = columns.setdefault(cost.key, len(columns))
                if cost.label:
                    labels.add(cost.label)
            uses.append(place)
            counts.append(cost.count)
    costs = list(columns)
    kinds = tuple(sorted({key[0] for key in costs}))
    known = Memo() if memo is None else memo
    if len(known) > MOST:
        known.clear()
    new = [key for key in costs if (key, dtype) not in known]
    known.update(zip(((key, dtype) for key in new), _figures(profile, learned, new, dtype), strict=True))
    figures = np.array([known[key, dtype] for key in costs]).reshape(len(costs), _FIGURES + len(PARTS))
    return Priced(
        networks=len(workloads),
        kinds=kinds,
        kind=np.array([kinds.index(key[0]) for key in costs], dtype=np.intp),
        ms=figures[:, 0],
        bound=figures[:, 1],
        factor=figures[:, 2],
        elements=figures[:, 3],
        flops=figures[:, 4],
        labels=tuple(sorted(labels)),
        parts=figures[:, _FIGURES:],
        row=np.repeat(np.arange(len(workloads)), np.asarray(lengths, dtype=np.intp)),
        op=np.asarray(uses, dtype=np.intp),
        count=np.asarray(counts, dtype=np.float64),
    )


def _figures(profile: Profile, learned: Learned | None, costs: Sequence[_Key], dtype: str) -> Array:
    """(ops, figures): ms, bound, factor, elements, FLOPs, and the parts."""
    table = np.zeros((len(costs), _FIGURES + len(PARTS)))
    launch, bandwidth = 1e-3 * profile.launch["other_us"], profile.spec["memory_bandwidth_bytes_per_s"]
    for op, at, where, dims in _grouped(costs, dtype):
        form, size = FORMS[op], dtype_bytes(at)
        elements, flops = form.reads(dims) + form.writes(dims), form.flops(dims)
        ms = pricing.op_ms(profile, learned, op, dims, at)
        own = (ms, roofline.bound_ms(profile, op, dims, at), pricing.factor(profile, learned, op, at), elements, flops)
        parts = (
            ms,
            launch * form.launches,
            1e3 * size * elements / bandwidth,
            1e3 * flops / profile.peak(at),
            1e3 * size * form.weights(dims) / bandwidth,
        )
        for column, each in enumerate((*own, *parts)):
            table[where, column] = each
    return table


def _grouped(costs: Sequence[_Key], dtype: str) -> Iterator[tuple[str, str, list[int], dict[str, Array]]]:
    groups: dict[tuple[str, str], list[int]] = {}
    for index, (op, _, at) in enumerate(costs):
        groups.setdefault((op, at or dtype), []).append(index)
    for (op, at), where in groups.items():
        names = [name for name, _ in costs[where[0]][1]]
        table = np.array([[size for _, size in costs[index][1]] for index in where], dtype=np.float64)
        yield op, at, where, dict(zip(names, table.T, strict=True))


def parts_of(population: Priced, workloads: Sequence[Workload], launch_ms: float) -> Parts:
    """The parts of each network by kind of op, with two of the network's own: a constant launch, and its biases."""
    n, kinds = population.networks, len(population.kinds)
    place = population.row * kinds + population.kind[population.op]
    weight = population.count[:, None] * population.parts[population.op]
    table = np.stack(
        [np.bincount(place, weight[:, part], n * kinds).reshape(n, kinds) for part in range(len(PARTS))], axis=2
    ).reshape(n, kinds * len(PARTS))
    biases = np.array([biased(workload) for workload in workloads])
    own = np.stack([np.full(n, launch_ms), launch_ms * biases], axis=1)
    total = population.total(population.ms)
    elements = population.total(population.elements)
    calls = np.bincount(population.row, population.count, n)
    intensity = np.log((population.total(population.flops) + 1) / (elements + 1))
    shape = np.stack([intensity, np.log((elements + 1) / np.maximum(calls, 1))], axis=1)
    names = (*names_of(population.kinds), "network.launch", "bias.launch")
    return Parts(names, np.concatenate([table, own], axis=1), np.maximum(total, 1e-9), shape)


def biased(workload: Workload) -> float:
    """How many linear layers add a bias: the weights that no op of the workload reads, less an embedding's table as
    tall as the widest linear layer, over the outputs of all linear layers, times their number. A guess: a workload's
    ops do not say.
    """
    linear = [op for op in workload.ops if op.op == "linear"]
    if not linear:
        return 0.0
    outputs = sum(op.count * op.dim("n") for op in linear)
    read = sum(op.count * int(FORMS[op.op].weights(dict(op.dims))) for op in workload.ops if op.op != "embedding")
    tables = [op.dim("n") * max(one.dim("n") for one in linear) for op in workload.ops if op.op == "embedding"]
    left = workload.weight_elements - read - sum(tables[:1])
    head = max(one.dim("n") for one in linear) if tables else 0
    share = min(1.0, max(0.0, left / max(1, outputs - head)))
    return share * sum(op.count for op in linear)
