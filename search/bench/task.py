"""What a benchmark asks: a space, objectives, a value for every sentence, and what a set of values is worth.

A table's rows are told apart by their sentences (`Space.literal`), also where two write the same graph: NAS-Bench-201
trained 15,625 cells, and 1,284 of their 6,466 graphs hold rows of unlike accuracy.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archrank import grammar, spaces
from archrank.grammar import Space, nearest
from archrank.search.bench.ridge import Ridge
from archrank.search.config import ConfigError
from archrank.search.objective import Objective, parse_objective, parse_objectives
from archrank.search.pareto import hypervolume, non_dominated, reference_point

__all__ = ["Task", "from_references", "from_table"]

Array = NDArray[np.float64]
Values = Callable[[str], Sequence[float]]


@dataclass(frozen=True)
class Task:
    """`values(sentence)` in the objectives' order and own directions; `corner` and `ideal` (m,) minimised and `best`,
    the true front's hypervolume between them, or with one objective the optimum alone in `best`.
    """

    name: str
    space: Space
    objectives: tuple[Objective, ...]
    values: Values
    corner: Array
    ideal: Array
    best: float

    @property
    def measure(self) -> str:
        """`regret` with one objective, else `hypervolume_ratio`."""
        return "regret" if len(self.objectives) == 1 else "hypervolume_ratio"

    def score(self, values: Array) -> float:
        """(n, m) minimised values -> regret, min − optimum, or hypervolume over that of the true front.

        Objectives are mapped to (x − ideal) / (corner − ideal), points beyond the corner dropped, below the ideal
        clipped.
        """
        if len(self.objectives) == 1:
            return float(values[:, 0].min() - self.best)
        z = np.maximum((values - self.ideal) / (self.corner - self.ideal), 0.0)
        return hypervolume(z, np.ones(len(self.objectives))) / self.best


def from_references(file: Path, name: str | None, space_name: str, table: Path | None) -> Task:
    """The task `name` of a file of references (the only one where `name` is None); ConfigError says what is missing."""
    known = _read_references(file)
    if name is None and len(known) > 1:
        raise ConfigError(f"--task is missing: {file} has {', '.join(known)}")
    name = name or next(iter(known))
    if name not in known:
        near = nearest(name, list(known))
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"--task {name}: {file} has no such task; {hint}There are: {', '.join(known)}")
    found = known[name]
    stated = found.get("space")
    space = _loaded(space_name)
    if stated is not None and stated != space.name:
        raise ConfigError(f"--task {name} is of the space {stated}, not {space.name}")
    columns = found["objectives"]
    objectives = tuple(Objective(o["name"], o.get("direction", "min"), o.get("unit", "")) for o in columns)
    values: Values
    if found.get("surrogate"):
        values = Ridge.from_json(found["surrogate"], [o.name for o in objectives])
    else:
        file_of_table = table or _beside(file, found)
        rows = _rows(file_of_table)
        texts = _sentences(space, file_of_table, rows)
        space = space.literal()
        values = _lookup(space, file_of_table, texts, [[_value(file_of_table, r, o) for o in columns] for r in rows])
    if len(objectives) == 1:
        optimum = objectives[0].sign * float(found["optimum"])
        return Task(name, space, objectives, values, np.zeros(1), np.zeros(1), optimum)
    signs = np.array([o.sign for o in objectives])
    corner, ideal = (signs * np.array(found[key], dtype=np.float64) for key in ("reference", "ideal"))
    return Task(name, space, objectives, values, corner, ideal, float(found["hypervolume_star"]))


def from_table(table: Path, space_name: str, objectives: Sequence[str]) -> Task:
    """The task of a table with a row for every sentence: each objective is a column; the corner is the worst of each
    over the table and a tenth more.
    """
    space, rows = _loaded(space_name), _rows(table)
    if not objectives:
        raise ConfigError(f"--objective is missing: name columns of {table} with a direction, such as error:min")
    wanted = parse_objectives([parse_objective(o) for o in objectives])
    texts = _sentences(space, table, rows)
    space = space.literal()
    columns = [{"column": o.name, "value": "column"} for o in wanted]
    numbers = [[_value(table, row, c) for c in columns] for row in rows]
    values = _lookup(space, table, texts, numbers)
    y = np.array(numbers, dtype=np.float64) * np.array([o.sign for o in wanted])
    name = f"{space.name} {' '.join(o.name for o in wanted)}"
    if len(wanted) == 1:
        return Task(name, space, wanted, values, np.zeros(1), np.zeros(1), float(y.min()))
    corner, ideal = reference_point(y), y.min(0)
    front = y[non_dominated(y)]
    best = hypervolume((front - ideal) / (corner - ideal), np.ones(len(wanted)))
    return Task(name, space, wanted, values, corner, ideal, best)


def _read_references(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--references {file}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError(f"--references {file}: is no JSON: {error}") from None
    tasks = found.get("tasks") if isinstance(found, dict) else None
    if not isinstance(tasks, dict) or not tasks:
        raise ConfigError(f'--references {file}: has no tasks; it is a JSON document with {{"tasks": {{NAME: …}}}}')
    return tasks


def _loaded(name: str) -> Space:
    space = grammar.load(name)
    if space.needs_binding:
        raise ConfigError(f"the space {space.name} adapts a base: a table of it has no sentences of its own")
    return space


def _beside(file: Path, task: Mapping[str, Any]) -> Path:
    """The task's table, looked for beside the references and in the folder above."""
    if not task.get("table"):
        raise ConfigError(f"--table is missing: the task in {file} names none")
    for folder in (file.parent, file.parent.parent):
        if (folder / task["table"]).is_file():
            return folder / str(task["table"])
    raise ConfigError(f"--table is missing: {task['table']} does not stand beside {file}")


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        data = table.read_bytes()
        text = (gzip.decompress(data) if table.suffix == ".gz" else data).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConfigError(f"--table {table}: cannot be read as a table: {error}") from None
    found = list(csv.DictReader(io.StringIO(text)))
    if not found:
        raise ConfigError(f"--table {table}: has no rows")
    return found


def _sentences(space: Space, table: Path, rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Of the column `text`, or as the space's own benchmark writes them."""
    if "text" in rows[0]:
        found = []
        for number, row in enumerate(rows, 2):
            try:
                found.append(space.parse(row["text"]).text)
            except ValueError as error:
                raise ConfigError(f"{table}:{number}: no sentence of {space.name}: {error}") from None
        return found
    return spaces.read_table(space.name, table)


def _value(table: Path, row: Mapping[str, str], objective: Mapping[str, Any]) -> float:
    column, rule = objective["column"], objective.get("value", "column")
    if column not in row:
        near = nearest(column, list(row))
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"--table {table}: no column {column!r}; {hint}There are: {', '.join(list(row)[:40])}")
    try:
        number = float(row[column])
    except ValueError:
        raise ConfigError(f"--table {table}: {column} = {row[column]!r:.40} is no number") from None
    if rule == "column":
        return number
    if rule == "100 - column":
        return 100.0 - number
    raise ConfigError(f"the value rule {rule!r} of a task is unknown; there are: column, 100 - column")


def _lookup(space: Space, table: Path, texts: Sequence[str], values: Sequence[Sequence[float]]) -> Values:
    known = {text: tuple(row) for text, row in zip(texts, values, strict=True)}
    if not space.is_finite or space.size() != len(known):
        size = f"{space.size():,}" if space.is_finite else "no end of"
        raise ConfigError(
            f"--table {table}: has {len(known):,} of {size} sentences of {space.name}; a benchmark needs "
            "a value for each"
        )
    return partial(_looked_up, known)


def _looked_up(known: Mapping[str, Sequence[float]], text: str) -> Sequence[float]:
    return known[text]
