"""What `search check` measures of a space: its size, how it branches, how large samples are and what they use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from archrank.grammar import Space
from archrank.grammar.analysis import branching
from archrank.grammar.typed import TypedTrees
from archrank.search.drawing.bars import eighths
from archrank.search.drawing.picture import percent

__all__ = ["Joins", "chart", "joins", "rates", "size", "sizes"]

SAMPLES = 300
LARGEST = 1000
"""Size of the largest sample that is built: above it, networks of a space without a bound have millions of ops."""
_BINS, _WIDTH = 12, 40


@dataclass(frozen=True, slots=True)
class Joins:
    """Of `samples` networks, of size at most `most` where larger ones were left out: how their branches were joined
    ({free, goal, fallback: number}), how many networks each op is in, parameters and FLOPs as (median, largest).
    """

    samples: int
    most: int | None
    closed: dict[str, int]
    ops: dict[str, int]
    params: tuple[int, int]
    flops: tuple[int, int]


def size(space: Space) -> int | None:
    """How many sentences there are, exactly; None where there is no end of them."""
    return space.size() if space.is_finite else None


def rates(space: Space) -> tuple[float, float] | None:
    """Branching rates of derivations, and with every copy counted; None where no rule holds itself."""
    if space.is_site_space:
        return None
    sentences = space.trees().sentences
    return branching(sentences.grammar, sentences.facts.recursive) if sentences.facts.recursive else None


def sizes(space: Space) -> list[tuple[int, int, float]]:
    """(least size, largest size, probability) of bins of the size of a sample under the bounds; [] where there is no
    bound on it, or one size alone.
    """
    if space.is_site_space or space.trees().high is None:
        return []
    probabilities = space.trees().size_probabilities()
    found = np.flatnonzero(probabilities)
    low, high = int(found[0]), int(found[-1])
    if low == high:
        return []
    if len(found) <= _BINS:
        return [(n, n, float(probabilities[n])) for n in found.tolist()]
    edges = np.unique(np.geomspace(low + 1, high + 2, _BINS + 1).round().astype(int) - 1)
    return [
        (int(a), int(b) - 1, float(probabilities[a:b].sum()))
        for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    ]


def joins(space: Space, samples: int = SAMPLES) -> Joins | None:
    """What a few hundred seeded samples of an architecture space are like; None elsewhere."""
    if not space.is_architecture_space:
        return None
    high, most = space.trees().high, None
    if high is None or high > LARGEST:
        most = max(LARGEST, space.trees().skeleton.smallest[space.trees().skeleton.start])
        space = space.within(size=(None, most))
    engine = space.trees()
    assert isinstance(engine, TypedTrees)
    before = Counter(engine.counts)
    drawn = [space.elaborate(d) for d in space.sample(np.random.default_rng(0), samples)]
    closed = {name: engine.counts[name] - before[name] for name in ("free", "goal", "fallback")}
    used = Counter(name for a in drawn for name in {op.op for op in a.ops})
    return Joins(
        samples,
        most,
        closed,
        dict(used.most_common()),
        _middle([a.params for a in drawn]),
        _middle([a.flops for a in drawn]),
    )


def _middle(values: Sequence[int]) -> tuple[int, int]:
    return sorted(values)[len(values) // 2], max(values)


def chart(bins: Sequence[tuple[int, int, float]]) -> Iterator[str]:
    """A line a bin, as long as its probability."""
    most = max((p for _, _, p in bins), default=0.0)
    names = [f"{low:,}" if low == high else f"{low:,}–{high:,}" for low, high, _ in bins]
    wide = max(map(len, names), default=0)
    for (_, _, p), name in zip(bins, names, strict=True):
        yield f"  {name:>{wide}}  {eighths(p / most * _WIDTH):<{_WIDTH}}  {percent(p)}".rstrip()
