"""A benchmark's outcome as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from archrank.search.bench.cells import Cell, intervals
from archrank.search.bench.task import Task

__all__ = ["text_table"]


def text_table(task: Task, cells: Mapping[str, Sequence[Cell]]) -> str:
    """A line a strategy: the mean at each budget ± half of its 95 % interval, and milliseconds an evaluation."""
    first = next(iter(cells.values()))
    marks = list(first[0].scores)
    head = ["strategy", *map(str, marks), "ms/eval"]
    lines = [head]
    for name, of in cells.items():
        mean, low, _ = intervals([[c.scores[n] for n in marks] for c in of])
        shown = [f"{m:.3f} ± {m - a:.3f}" for m, a in zip(mean, low, strict=True)]
        spent = 1000 * sum(c.seconds for c in of) / max(sum(c.ended for c in of), 1)
        lines.append([name, *shown, f"{spent:.1f}"])
    sizes = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = [
        "  ".join(c.ljust(n) if i == 0 else c.rjust(n) for i, (c, n) in enumerate(zip(line, sizes, strict=True)))
        for line in lines
    ]
    what = "regret (0 is the optimum)" if task.measure == "regret" else "hypervolume / that of the true front"
    ended = {name: min(c.ended for c in of) for name, of in cells.items()}
    short = [f"{name}: nothing new after {n}" for name, n in ended.items() if n < marks[-1]]
    note = f"{task.name}: {what}, mean over {len(first)} seeds ± half the 95 % interval, after … evaluations"
    return "\n".join([note, *text, *short]) + "\n"
