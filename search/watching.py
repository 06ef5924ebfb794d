"""One line on how far a run is."""

from __future__ import annotations

from collections import Counter

from archrank.search.results import Run

__all__ = ["line"]


def line(run: Run) -> str:
    """`120/500 trials · 3 failed · best error 0.53 · front 14 · hypervolume 1.234`; `ended` at the end."""
    stages = Counter(t.stage for t in run.trials)
    states = Counter(t.state for t in run.trials)
    parts = [f"{stages['inherited']}/{run.config.trials} trials"]
    parts += [f"{n} {stage}" for stage, n in stages.items() if stage != "inherited"]
    parts += [f"{states[state]} {state}" for state in ("failed", "infeasible") if states[state]]
    front = run.front()
    if len(front):
        quality = run.objectives[0]
        parts.append(f"best {quality.name} {front.best(quality.name).values[quality.name]:.4g}")
        parts.append(f"front {len(front)}")
    if run.scale is not None and len(run.objectives) > 1:
        parts.append(f"hypervolume {run.scale.hypervolume(run.trials):.4g}")
    return " · ".join([*parts, *(["ended"] if run.finished else [])])
