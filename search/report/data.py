"""What a report is made from: plain values, so that the page depends on neither torch nor the run folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from archrank.search.report.findings import Findings

STAGES = ("inherited", "measured", "reranked", "final")
"""The stages of a value in the order a candidate passes through them."""

STAGE_NAMES = {"inherited": "inherited", "measured": "measured", "reranked": "re-ranked", "final": "final"}
"""How a stage is written for people; a record keeps the word of the trial format."""

_QUALITY = ("accuracy", "loss", "error", "perplexity")


@dataclass(frozen=True)
class Constant:
    """A quantity that is equal for every candidate and is therefore named instead of searched."""

    name: str
    value: float
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Seen:
    """How many different configurations a method evaluated at a stage, and on how many seeds each; of these, how many
    broke a constraint, failed, or were stopped before the last row.
    """

    stage: str
    method: str
    configurations: int
    seeds: int = 1
    infeasible: int = 0
    failed: int = 0
    stopped_early: int = 0

    def __str__(self) -> str:
        """``200 inherited (nsga2 on the mixed supernet, 3 infeasible)``."""
        lost = {"infeasible": self.infeasible, "failed": self.failed, "stopped early": self.stopped_early}
        inside = [self.method, *([f"{self.seeds} seeds"] if self.seeds > 1 else [])]
        inside += [f"{n:,} {what}" for what, n in lost.items() if n]
        return f"{self.configurations:,} {STAGE_NAMES.get(self.stage, self.stage)} ({', '.join(inside)})"


@dataclass(frozen=True)
class Table:
    """A plain table of the page: its name in the page's addresses, a heading, columns, rows of texts, a note."""

    name: str
    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows; `title`, `objectives` and `trials` are needed, the rest appears where given.

    `objectives` are (name, "min" or "max", unit). `trials` are records of the trial format (`id text values stage
    state seconds`), each with, where known, `key`, `parent` (id of the trial it came from), `test` (values on the
    test split) and `reason` (why it failed). `ranks` gives {trial id: {module: rank}} for the trials of the front; a
    module left out of a trial's map carries no adapter there. `modules` are the full names in model order. `pictures`
    gives {trial id: SVG} as `search.drawing.svg` draws it. `reference` is the hypervolume's reference point in the
    objectives' own directions and units, `seen` the configurations of each method and stage, `form` what `search
    extract --as` takes (default: by the kind of run). `findings` is what was found out about the run as a whole.
    """

    title: str
    objectives: Sequence[tuple[str, str, str]]
    trials: Sequence[Mapping[str, Any]]
    front: Sequence[int] = ()
    verdict: str = ""
    task: str = ""
    base: str = ""
    data: str = ""
    device: str = ""
    chosen: Mapping[str, int] = field(default_factory=dict)
    hypervolume: Sequence[tuple[int, float]] = ()
    reference: Mapping[str, float] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    ranks: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    modules: Sequence[str] = ()
    constants: Sequence[Constant] = ()
    seen: Sequence[Seen] = ()
    warnings: Sequence[str] = ()
    pictures: Mapping[int, str] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    phases: Sequence[tuple[str, float]] = ()
    form: str = ""
    command: str = ""
    config: str = ""
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""

    def __post_init__(self) -> None:
        """Refuse what would draw a wrong page rather than none."""
        if not self.objectives:
            raise ValueError("a report needs at least one objective, given as (name, direction, unit)")
        for name, direction, _ in self.objectives:
            if direction not in ("min", "max"):
                raise ValueError(f"objective {name}: direction {direction!r} is not one of 'min', 'max'")
        known = {int(t["id"]) for t in self.trials}
        asked = [*self.front, *self.chosen.values(), *self.pictures]
        asked += [i for ids in self.findings.device_fronts.values() for i in ids]
        asked += [step.trial for lineage in self.findings.lineages for step in lineage.steps]
        missing = sorted({i for i in asked if i not in known})
        if missing:
            raise ValueError(
                f"trials {missing} are on the front, chosen or drawn but not among the {len(known)} trials"
            )

    @property
    def quality(self) -> int:
        """Which objective is the quality (the vertical axis): the first with a known name, else the first."""
        names = [name for name, _, _ in self.objectives]
        return next((i for i, name in enumerate(names) if name in _QUALITY), 0)


@dataclass(frozen=True)
class Row:
    """One trial with its values checked: only finite numbers remain."""

    id: int
    text: str
    values: Mapping[str, float]
    stage: str
    state: str
    seconds: float | None
    key: str
    parent: int | None
    test: Mapping[str, float]
    reason: str

    @property
    def stage_name(self) -> str:
        return STAGE_NAMES.get(self.stage, self.stage)


def read_rows(trials: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The records as rows, in their order."""
    return [_read_row(t) for t in trials]


def _read_row(record: Mapping[str, Any]) -> Row:
    seconds, parent = record.get("seconds"), record.get("parent")
    return Row(
        id=int(record["id"]),
        text=str(record.get("text") or ""),
        values=_finite(record.get("values")),
        stage=str(record.get("stage") or ""),
        state=str(record.get("state") or "done"),
        seconds=None if seconds is None else float(seconds),
        key=str(record.get("key") or ""),
        parent=None if parent is None else int(parent),
        test=_finite(record.get("test")),
        reason=str(record.get("reason") or ""),
    )


def _finite(values: Mapping[str, Any] | None) -> dict[str, float]:
    pairs = {str(k): float(v) for k, v in (values or {}).items() if v is not None}
    return {k: v for k, v in pairs.items() if math.isfinite(v)}


def chains(rows: Sequence[Row]) -> list[dict[str, Row]]:
    """The candidates seen at more than one stage, each as {stage: row}.

    A row's predecessor is its `parent`; without one, the latest row of an earlier stage with the same key.
    """
    done = {r.id: r for r in rows if r.state == "done"}
    twins: dict[str, list[Row]] = {}
    for row in done.values():
        twins.setdefault(row.key, []).append(row)
    before = {r.id: _predecessor(r, done, twins[r.key]) for r in done.values()}
    inner = {p.id for p in before.values() if p is not None}
    found = []
    for row in done.values():
        if row.id in inner or before[row.id] is None:
            continue
        chain: dict[str, Row] = {}
        step: Row | None = row
        while step is not None and step.stage not in chain:  # the second test ends a circle of parents
            chain[step.stage] = step
            step = before[step.id]
        found.append(chain)
    return found


def _predecessor(row: Row, done: Mapping[int, Row], twins: Sequence[Row]) -> Row | None:
    if row.parent is not None:
        return done.get(row.parent)
    if not row.key or row.stage not in STAGES:
        return None
    earlier = STAGES[: STAGES.index(row.stage)]
    same = [r for r in twins if r.stage in earlier]
    return max(same, key=lambda r: (earlier.index(r.stage), r.id), default=None)
