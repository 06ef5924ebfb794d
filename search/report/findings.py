"""What was found out about a run, as plain values: an interval around a curve, features, importances, where a point is
from. `search.analysis` computes them; the page shows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Band", "Feature", "Findings", "Importance", "Lineage", "Step"]


@dataclass(frozen=True)
class Band:
    """An interval around a curve: `points` are (evaluations, low, middle, high); `said`: what exactly it is, or why
    there is none.
    """

    points: Sequence[tuple[int, float, float, float]] = ()
    said: str = ""


@dataclass(frozen=True)
class Feature:
    """A number that describes candidates: {trial id: value}."""

    name: str
    values: Mapping[int, float]


@dataclass(frozen=True)
class Importance:
    """How much each feature matters for one objective, most first. `share`, `low`, `high` (features,); `by`: what the
    features are; `r2`: the share of the variance over held-out trials that the model explains; `trials`: those looked
    at; `refused`: why there are no figures, "" where there are.
    """

    objective: str
    by: str
    names: Sequence[str] = ()
    share: Sequence[float] = ()
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    r2: float = 0.0
    trials: int = 0
    refused: str = ""


@dataclass(frozen=True)
class Step:
    """One candidate of a lineage: its trial, how the candidate after it is related to it, and what differs there."""

    trial: int
    relation: str
    changes: Sequence[str] = ()
    more: int = 0
    """Changes beyond those shown."""


@dataclass(frozen=True)
class Lineage:
    """Where a trial is from, itself first, then further and further back; `end`: why it goes back no further."""

    steps: Sequence[Step] = field(default_factory=tuple)
    end: str = ""


@dataclass(frozen=True)
class Findings:
    """All of a run. `device_fronts`: {objective of one device: ids of the front of the quality and that objective}."""

    band: Band = field(default_factory=Band)
    features: Sequence[Feature] = ()
    importances: Sequence[Importance] = ()
    lineages: Sequence[Lineage] = ()
    device_fronts: Mapping[str, Sequence[int]] = field(default_factory=dict)
