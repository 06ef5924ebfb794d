"""One strategy on one task with one seed, and many of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from archrank.search.bench.task import Task
from archrank.search.expression import Constraint
from archrank.search.study import Study

__all__ = ["Cell", "budgets", "run_cell"]

MARKS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


@dataclass(frozen=True)
class Cell:
    """scores: {evaluations: regret or hypervolume ratio}; curve: the same more often; seconds: of asking and telling;
    ended: evaluations done; feasible: how many of them met the constraints; first_feasible: evaluations until one did,
    None where none did.
    """

    scores: dict[int, float]
    curve: dict[int, float]
    seconds: float
    ended: int
    feasible: int
    first_feasible: int | None


def budgets(trials: int) -> list[int]:
    """The evaluations at which scores are given: 10, 20, 50, 100, … up to `trials`, and `trials`."""
    return sorted({m for m in MARKS if m < trials} | {trials})


def run_cell(
    task: Task,
    strategy: str,
    seed: int,
    trials: int,
    tick: Callable[[int], None] | None = None,
    batch: int = 1,
    where: Sequence[Constraint] = (),
) -> Cell:
    """Searches the task with one seed; a space that ends sooner keeps its last score. An evaluation that breaks `where`
    adds nothing to the hypervolume, which is still over that of the whole true front.
    """
    names = [o.name for o in task.objectives]
    signs = np.array([o.sign for o in task.objectives], dtype=np.float64)
    study = Study(task.space, task.objectives, strategy, seed, constraints=where)
    met: list[int] = []
    points = np.zeros((trials, len(names)))
    done, spent = 0, 0.0
    while done < trials:
        began = time.perf_counter()
        asked = study.ask(min(batch, trials - done))
        spent += time.perf_counter() - began
        if not asked:
            break
        for d in asked:
            values = task.values(d.text)
            points[done] = signs * np.asarray(values)
            began = time.perf_counter()
            told = study.tell(d, dict(zip(names, map(float, values), strict=True)))
            spent += time.perf_counter() - began
            done += 1
            if told.state == "done":
                met.append(done)
            else:
                points[done - 1] = task.corner
        if tick is not None:
            tick(len(asked))
    marks = budgets(trials)
    every = sorted({*marks, *np.unique(np.geomspace(5, trials, 60).astype(int)).tolist()} - set(range(1)))
    curve = {n: task.score(points[: min(n, done)]) for n in every if n <= trials}
    return Cell({n: curve[n] for n in marks}, curve, spent, done, len(met), met[0] if met else None)


def intervals(rows: Sequence[Sequence[float]], level: float = 0.95) -> tuple[list[float], list[float], list[float]]:
    """(seeds, points) -> mean, and the low and high end of its interval by Student's t over the seeds."""
    from scipy.stats import t

    x = np.asarray(rows, dtype=np.float64)
    mean = x.mean(0)
    if len(x) < 2:
        return mean.tolist(), mean.tolist(), mean.tolist()
    half = x.std(0, ddof=1) / np.sqrt(len(x)) * float(t.ppf((1 + level) / 2, len(x) - 1))
    return mean.tolist(), (mean - half).tolist(), (mean + half).tolist()
