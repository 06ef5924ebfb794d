"""What a run's report says of ensembles: the front by number of members, and the options that left the space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archrank.search.pareto import ParetoFront, latest
from archrank.search.report.data import Table
from archrank.search.report.text import number
from archrank.search.results import Run
from archrank.search.trial import Trial

__all__ = ["ensemble_tables", "members_of"]


def members_of(trial: Trial) -> int:
    """How many members a candidate has."""
    found = trial.extra.get("members", 1)
    return found if isinstance(found, int) else 1


def ensemble_tables(run: Run) -> list[Table]:
    """[] where no candidate is an ensemble."""
    sizes = sorted({members_of(t) for t in run.trials})
    if sizes in ([], [1]):
        return []
    return [_fronts(run, sizes), _coinciding(run), _shrinking(run)]


def _fronts(run: Run, sizes: list[int]) -> Table:
    """The front of each number of members by itself, at its latest stages."""
    units = {o.name: o.unit for o in run.objectives}
    rows = []
    for size in sizes:
        of_size = [t for t in latest(run.trials) if members_of(t) == size]
        cost = run.objectives[-1]
        for t in sorted(ParetoFront.of(of_size, run.objectives, ()), key=lambda t: cost.sign * t.values[cost.name]):
            values = [number(t.values[o.name], units[o.name], 4) for o in run.objectives]
            unlike = number(t.values["diversity"], "", 3) if "diversity" in t.values else "–"
            split = str(t.extra.get("split", "–")) if size > 1 else "–"
            rows.append([str(size), split, str(t.id), t.stage, *values, unlike])
    return Table(
        "ensembles",
        "Ensembles against single networks",
        ["members", "split", "trial", "stage", *(o.name for o in run.objectives), "diversity"],
        rows,
        "The front of the candidates of each size by itself. Diversity is the mean pairwise Jensen–Shannon divergence "
        "of the members' predictions, in nats.",
    )


def _coinciding(run: Run) -> Table:
    rows = []
    for t in run.trials:
        pairs = t.extra.get("coinciding")
        if isinstance(pairs, list):
            rows.append([str(t.id), t.stage, ", ".join(f"{i} and {j}" for i, j in pairs)])
        elif t.reason and t.reason.startswith("members of the ensemble coincide"):
            rows.append([str(t.id), t.state, t.reason])
    return Table(
        "coinciding",
        "Ensembles whose members coincide",
        ["trial", "stage", "members"],
        rows,
        "Members that have the same ops. Over shared weights they are one and the same network, and the candidate is "
        "infeasible; trained apart they differ as two seeds do.",
    )


def _shrinking(run: Run) -> Table:
    events = [e for e in run.contents.events if e.get("event") == "shrink"]
    rows = [_option(e, o) for e in events for o in _options(e) if o["dropped"]]
    weights = ", ".join(dict.fromkeys(number(float(str(e["weight"]))) for e in events))
    return Table(
        "shrinking",
        "Options that left the space",
        ["round", "option", "seen", "potential", "diversity", "score"],
        rows,
        f"Score = potential + {weights or 'λ'} · diversity: minus the mean loss, and the mean diversity, of the "
        "sampled ensembles that hold the option, both in nats.",
    )


def _options(event: Mapping[str, object]) -> list[dict[str, Any]]:
    found = event["options"]
    assert isinstance(found, list)
    return found


def _option(event: Mapping[str, object], o: Mapping[str, Any]) -> list[str]:
    figures = [f"{float(o[name]):.3f}" for name in ("potential", "diversity", "score")]
    return [str(int(str(event["round"])) + 1), str(o["name"]), str(o["seen"]), *figures]
