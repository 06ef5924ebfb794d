"""Who moves up: from inherited values to a short fine-tune on two seeds, from there to the full one; and where their
weights lie.

Inherited values rank candidates of one budget well and candidates of different budgets badly (random rank vectors
rarely train the large corner), so promotion goes stratum by stratum and only fine-tuned values are compared across
budgets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from archrank import grammar
from archrank.search.objective import Objective
from archrank.search.pricing import trained_params, uniform_params
from archrank.search.selection import spread
from archrank.search.strata import Strata
from archrank.search.trial import Trial

__all__ = [
    "RERANK_SEEDS",
    "Entry",
    "Trial",
    "budget_edges",
    "family_of",
    "most_promoted",
    "rerank_steps",
    "to_finish",
    "to_rerank",
    "uniform",
    "weights_of",
]

RERANK_SEEDS = 2
RERANK_SHARE = 1 / 8  # of one full fine-tune, on each of the seeds


@dataclass(frozen=True)
class Entry:
    """One candidate of a phase: its sentence, the trial it was promoted from, and the inherited one that it began as.

    A reference, which nothing promoted, has neither.
    """

    text: str
    parent: int | None = None
    root: int | None = None

    @classmethod
    def of(cls, trial: Trial, trials: Sequence[Trial]) -> Entry:
        """A promoted trial's."""
        by_id = {t.id: t for t in trials}
        root = trial
        while root.parent is not None:
            root = by_id[root.parent]
        return cls(trial.text, trial.id, root.id)


def uniform(space: grammar.Space, shapes: Mapping[str, tuple[int, int]], rank: int) -> grammar.Derivation | None:
    """Every module at min(rank, in, out), where the space has that."""
    try:
        return space.from_ranks({name: min(rank, *shape) for name, shape in shapes.items()})
    except ValueError:
        return None


def rerank_steps(train_steps: int) -> int:
    """Steps of the short fine-tune."""
    return max(1, round(RERANK_SHARE * train_steps))


def family_of(space: grammar.Space) -> str:
    """The adapter family of a space of sites that has one."""
    return next(f for f in space.families if f != "none")


def budget_edges(space: grammar.Space, shapes: Mapping[str, tuple[int, int]]) -> list[float]:
    """Edges of the adapter-parameter strata.

    The lowest holds all below half of a uniform rank 1; from there each is twice the one before, up to the dearest
    candidate of the space.
    """
    family = family_of(space)
    per_rank = uniform_params(family, shapes, 1)
    top: float = uniform_params(family, shapes, max(space.ranks))
    low, high = space.floors.get("adapter_params", 0.0), space.bounds.get("adapter_params", math.inf)
    top = min(top, high)
    cheapest = min(trained_params(family, shape, 1) for shape in shapes.values())
    bottom = max(low, cheapest if cheapest < top else 0)
    first = max(bottom, per_rank / 2)
    octaves = max(1, math.ceil(math.log2(max(2.0, top / first)) - 1e-9))
    inner = [top / 2**k for k in range(octaves, 0, -1) if top / 2**k > bottom]
    return [bottom, *inner, top]


def to_rerank(trials: Sequence[Trial], strata: Strata, objectives: Sequence[Objective], finalists: int) -> list[Trial]:
    """Two candidates for each finalist wanted, the strata in turn."""
    pool = [t for t in trials if t.stage == "inherited" and t.state == "done" and not t.raced]
    return spread(strata.groups(pool), 2 * finalists, objectives)


def most_promoted(strata: Strata, trials: int, finalists: int, *, all_feasible: bool) -> list[int]:
    """The most that `to_rerank` takes from each stratum once `trials` candidates are priced, at least 1.

    Strata are asked in turn, so each holds its share of them, or all it has. Where candidates may turn out infeasible
    no stratum's number is known, and all could come from one.
    """
    wanted = 2 * finalists
    if not all_feasible:
        return [max(1, wanted)] * len(strata)
    parts = [part for part in strata.spaces if part is not None]
    share = trials // max(1, len(parts))
    held = [0 if p is None else min(share, p.size() if p.is_finite else share) for p in strata.spaces]
    taken, place = [0] * len(held), 0
    while sum(taken) < min(wanted, sum(held)):
        for i, size in enumerate(held):
            taken[i] += place < size and sum(taken) < wanted
        place += 1
    return [max(1, n) for n in taken]


def to_finish(trials: Sequence[Trial], strata: Strata, objectives: Sequence[Objective], finalists: int) -> list[Trial]:
    """The finalists, by re-ranked values, the strata in turn."""
    pool = [t for t in trials if t.stage == "reranked" and t.state == "done"]
    return spread(strata.groups(pool), finalists, objectives)


def weights_of(run: Path, trial: int) -> Path:
    """The file of a fine-tuned candidate's adapters."""
    return run / "adapters" / f"{trial}.safetensors"
