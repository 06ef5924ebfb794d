"""How soon and how often strategies meet constraints that few candidates meet, on tables of known values.

    ARCHRANK_DATA=FOLDER python benchmarks/constraints.py --out benchmarks/results/constraints.json

200 evaluations, 20 seeds: the share of the evaluations that meet both bounds, the evaluations until the first does (200
where none did), and the hypervolume of what meets them over that of the whole true front. The share of the whole
space that meets the bounds is that of 20,000 samples, or of the table's rows.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
from record import Cells, arguments, interval, write_result

from archrank.search.bench.cells import run_cell
from archrank.search.bench.task import Task, from_references
from archrank.search.expression import parse_where

TASKS = {
    "nb201_c100_titanrtx": ("nasbench201", "error <= 31", "latency_ms <= 6"),
    "gpt2_small_a100": ("gpt2_elastic", "perplexity <= 32", "latency_ms <= 15.5"),
}
STRATEGIES = ("surrogate", "linas", "nsga2", "regularized_evolution", "random")
SEEDS, TRIALS, SAMPLES = 20, 200, 20_000
REFERENCES = Path(os.environ.get("ARCHRANK_DATA", "")) / "nas" / "references.json"


def task_of(name: str) -> Task:
    """With its reference point."""
    return from_references(REFERENCES, name, TASKS[name][0], None)


def bounds(name: str, task: Task) -> list[object]:
    """Its constraints."""
    names = [o.name for o in task.objectives]
    return [c for text in TASKS[name][1:] for c in parse_where(text, names)]


def share(name: str) -> float:
    """Of samples of the space that meet the bounds."""
    task = task_of(name)
    names = [o.name for o in task.objectives]
    drawn = task.space.sample(np.random.default_rng(0), SAMPLES)
    rows = [dict(zip(names, map(float, task.values(d.text)), strict=True)) for d in drawn]
    return float(np.mean([all(c.holds(row) for c in bounds(name, task)) for row in rows]))  # type: ignore[attr-defined]


def measured(name: str, strategy: str, seed: int) -> dict[str, float]:
    """One search."""
    task = task_of(name)
    cell = run_cell(task, strategy, seed, TRIALS, where=bounds(name, task))  # type: ignore[arg-type]
    first = TRIALS if cell.first_feasible is None else cell.first_feasible
    return {"share": cell.feasible / cell.ended, "first": first, "hypervolume": cell.scores[TRIALS]}


def main() -> None:
    """Measures what is missing, then writes."""
    args = arguments(__doc__)
    cells, found = Cells(args.out), {}
    for name in TASKS:
        rows: dict[str, object] = {
            "bounds": list(TASKS[name][1:]),
            "share of samples": cells.get(name, partial(share, name)),
        }
        for strategy in STRATEGIES:
            of = [cells.get(f"{name} {strategy} {s}", partial(measured, name, strategy, s)) for s in range(SEEDS)]
            told = {k: [float(cell[k]) for cell in of] for k in ("share", "first", "hypervolume")}  # type: ignore[index]
            rows[strategy] = {k: {"mean": float(np.mean(v)), "ci": interval(v)} for k, v in told.items()}
            print(name, strategy, {k: round(float(np.mean(v)), 3) for k, v in told.items()}, flush=True)
        found[name] = rows
    write_result(
        args.out,
        {
            "claim": "share of evaluations that meet the constraints, evaluations until the first one does",
            "value": {n: r["surrogate"] for n, r in found.items()},
            "unit": "share, evaluations, hypervolume over that of the true front; 200 evaluations",
            "ci": "95 % bootstrap over seeds",
            "seeds": SEEDS,
            "baselines": ["random"],
            "tasks": found,
        },
    )


if __name__ == "__main__":
    main()
