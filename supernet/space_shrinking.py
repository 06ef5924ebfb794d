"""Diversity-guided shrinking of a space of ensembles (after NEAS: Chen et al., One-Shot Neural Ensemble Architecture
Search, CVPR 2021).

Round by round, ensembles are sampled and scored with the shared weights, and the options that fare worst leave the
space. The paper's own formula is not public in code; this one is ours, all terms in nats:

    score(o) = potential(o) + λ diversity(o)
    potential(o) = − mean loss of the sampled ensembles that hold option o
    diversity(o) = mean over them of the mean pairwise Jensen–Shannon divergence of the members' predictions

An option is a production of the grammar (an operator at a layer, a width, the split, K). Its margin is its score less
the best one of its siblings, the alternatives at the same place; the `share` of all options with the lowest margins are
dropped, never the last of a place, never one that was seen less than `least` times, and never an alternative of the
start rule: K, which says what a candidate costs. λ = 0 ablates the diversity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from archrank.grammar import Derivation, EmptySpaceError, Space

__all__ = ["OptionScore", "Sampled", "ShrinkError", "Shrinkage", "option_scores", "sampled", "shrunk"]

_TRIES, _LOOKS = 60, 200


class ShrinkError(ValueError):
    """A recipe that is none, or nothing to shrink by."""


@dataclass(frozen=True, slots=True)
class Shrinkage:
    """rounds; samples: ensembles scored in each; share: of the options that leave in each; weight: λ; least: times that
    an option is seen before it may leave.
    """

    rounds: int = 3
    samples: int = 60
    share: float = 0.2
    weight: float = 1.0
    least: int = 4

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.samples < 2 or self.least < 1 or not 0 < self.share < 1:
            raise ShrinkError(
                f"Shrinkage(rounds={self.rounds}, samples={self.samples}, share={self.share}, least={self.least}): "
                "rounds and least are at least 1, samples at least 2, share lies between 0 and 1"
            )
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ShrinkError(f"Shrinkage(weight={self.weight}): the weight of the diversity is at least 0")


@dataclass(frozen=True, slots=True)
class Sampled:
    """A candidate with its loss and diversity, both in nats."""

    derivation: Derivation
    loss: float
    diversity: float


@dataclass(frozen=True, slots=True)
class OptionScore:
    """Of one production: its number, its name, how many sampled ensembles hold it, the two terms, their sum, what it
    lacks to its best sibling, and whether it leaves.
    """

    production: int
    name: str
    seen: int
    potential: float
    diversity: float
    score: float
    margin: float
    dropped: bool = False

    def to_json(self) -> dict[str, object]:
        """A record for a log."""
        return asdict(self)


def sampled(
    space: Space,
    score: Callable[[Derivation], tuple[float, float]],
    n: int,
    seed: tuple[int, ...],
    accept: Callable[[Derivation], bool] | None = None,
) -> list[Sampled]:
    """`n` candidates of a space by its probabilities given that `accept` takes them, each with score(d) = (loss,
    diversity). Fewer where hardly any is taken; ShrinkError where none is.
    """
    rng, found = np.random.default_rng(seed), list[Derivation]()
    for _ in range(_TRIES):
        found += [d for d in space.sample(rng, n) if accept is None or accept(d)]
        if len(found) >= n:
            break
    if not found:
        raise ShrinkError(f"none of {_TRIES * n} sampled candidates of {space.name} is taken: loosen the constraints")
    return [Sampled(d, *score(d)) for d in found[:n]]


def option_scores(space: Space, found: Sequence[Sampled], recipe: Shrinkage) -> list[OptionScore]:
    """Every option that was seen, by its number; those that leave are marked. ShrinkError where nothing was sampled, or
    a loss is not finite.
    """
    if not found:
        raise ShrinkError("nothing was sampled to shrink the space by")
    bad = next((s for s in found if not (math.isfinite(s.loss) and math.isfinite(s.diversity))), None)
    if bad is not None:
        raise ShrinkError(f"{bad.derivation.text[:80]}: loss {bad.loss}, diversity {bad.diversity} cannot be compared")
    held: dict[int, list[Sampled]] = {}
    for one in found:
        for production in space.choices(one.derivation) - {one.derivation.choices[0]}:
            held.setdefault(production, []).append(one)
    means = {
        i: (-math.fsum(s.loss for s in each) / len(each), math.fsum(s.diversity for s in each) / len(each))
        for i, each in sorted(held.items())
    }
    score = {i: potential + recipe.weight * diversity for i, (potential, diversity) in means.items()}
    margin = {i: score[i] - max(score[j] for j in space.siblings(i) if j in score) for i in score}
    dropped = _leaving(space, margin, {i: len(each) for i, each in held.items()}, recipe)
    return [
        OptionScore(i, space.production_name(i), len(held[i]), *means[i], score[i], margin[i], i in dropped)
        for i in means
    ]


def _leaving(space: Space, margin: dict[int, float], seen: dict[int, int], recipe: Shrinkage) -> set[int]:
    """The lowest margins, places keeping one option that was seen often enough."""
    often = [i for i in margin if seen[i] >= recipe.least and margin[i] < 0]
    wanted = math.floor(recipe.share * len(margin))
    return set(sorted(often, key=lambda i: (margin[i], i))[:wanted])


def shrunk(
    space: Space, scores: Sequence[OptionScore], accept: Callable[[Derivation], bool] | None = None
) -> tuple[Space, list[OptionScore]]:
    """The space without the options that leave, and the scores with those marked that did.

    Where nothing that `accept` takes (or that keeps the space's bounds) would be left to sample, only the worse half of
    them leaves, then a quarter, and so on.
    """
    leaving = sorted((s for s in scores if s.dropped), key=lambda s: (s.margin, s.production))
    while leaving:
        smaller = space.without([s.production for s in leaving])
        if _holds_any(smaller, accept):
            gone = {s.production for s in leaving}
            return smaller, [replace(s, dropped=s.production in gone) for s in scores]
        leaving = leaving[: len(leaving) // 2]
    return space, [replace(s, dropped=False) for s in scores]


def _holds_any(space: Space, accept: Callable[[Derivation], bool] | None) -> bool:
    try:
        drawn = space.sample(np.random.default_rng(0), _LOOKS)
    except EmptySpaceError:
        return False
    return any(accept is None or accept(d) for d in drawn)
