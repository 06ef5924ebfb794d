"""Trials as a table for a terminal: `search front`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from archrank.search.report.data import Row, read_rows
from archrank.search.report.text import number, shorten

_GAP = "  "
_LEAST = 24
"""A sentence keeps this many characters even where the terminal is too narrow."""


def front_table(
    trials: Sequence[Mapping[str, Any]],
    objectives: Sequence[tuple[str, str, str]],
    *,
    chosen: Mapping[str, int] | None = None,
    width: int | None = None,
    described: Mapping[int, str] | None = None,
    description: str = "adapters",
) -> str:
    """Aligned text: id, the names it was chosen under, the values and their stage, the sentence shortened.

    `trials` are records of the trial format, `objectives` (name, direction, unit). Values that are no
    objective follow them, values on the test split come last under ``test NAME``. `width` is the line's
    length; without one, the terminal's (100 where there is none). `described` says in a few words what each
    trial is, where its sentence is too long to tell anything when shortened, under the heading `description`.
    """
    rows = read_rows(trials)
    if not rows:
        return "no trials"
    head, cells = _cells(rows, objectives, chosen or {})
    left = _left(head)
    sizes = [max(len(line[i]) for line in [head, *cells]) for i in range(len(head))]
    room = (width or shutil.get_terminal_size((100, 24)).columns) - sum(sizes) - len(_GAP) * len(sizes)
    told = [described.get(r.id, r.text) for r in rows] if described else [r.text for r in rows]
    texts = [
        description if described else "sentence",
        *(shorten(t, max(room, 2 * _LEAST if described else _LEAST)) for t in told),
    ]
    lines = []
    for line, text in zip([head, *cells], texts, strict=True):
        parts = [c.ljust(n) if name in left else c.rjust(n) for c, n, name in zip(line, sizes, head, strict=True)]
        lines.append(_GAP.join([*parts, text]).rstrip())
    return "\n".join(lines)


def write_front(
    stream: TextIO,
    trials: Sequence[Mapping[str, Any]],
    objectives: Sequence[tuple[str, str, str]],
    *,
    chosen: Mapping[str, int] | None = None,
) -> None:
    """The table on `stream`: as wide as the terminal where it is one, plain text of 100 columns otherwise."""
    if not stream.isatty():
        stream.write(front_table(trials, objectives, chosen=chosen, width=100) + "\n")
        return
    # imported here: plain output, `search --help` included, must not pay for rich
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = read_rows(trials)
    head, cells = _cells(rows, objectives, chosen or {})
    left = _left(head)
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in head:
        table.add_column(Text(name), justify="left" if name in left else "right", no_wrap=True)
    table.add_column("sentence", min_width=_LEAST, style="dim", no_wrap=True, ratio=1)
    console = Console(file=stream)
    sizes = sum(max(len(line[i]) for line in [head, *cells]) + 2 for i in range(len(head)))
    for row, line in zip(rows, cells, strict=True):
        text = shorten(row.text, max(console.width - sizes - 2, _LEAST))
        table.add_row(*(Text(c) for c in line), Text(text))
    console.print(table)


def _left(head: Sequence[str]) -> set[str]:
    return {"pick", "stage"} & set(head)


def _cells(
    rows: Sequence[Row], objectives: Sequence[tuple[str, str, str]], chosen: Mapping[str, int]
) -> tuple[list[str], list[list[str]]]:
    """The heading and the lines, without the sentence."""
    units = {name: unit for name, _, unit in objectives}
    names = list(dict.fromkeys([*units, *(k for r in rows for k in r.values)]))
    tests = list(dict.fromkeys(k for r in rows for k in r.test))
    head = ["id", *(["pick"] if chosen else []), "stage", *names, *(f"test {k}" for k in tests)]
    lines = []
    for row in rows:
        picks = [" ".join(label for label, i in chosen.items() if i == row.id)] if chosen else []
        values = [number(row.values.get(k), units.get(k, ""), zeros=True) for k in names]
        values += [number(row.test.get(k), units.get(k, ""), zeros=True) for k in tests]
        lines.append([str(row.id), *picks, row.stage_name if row.state == "done" else row.state, *values])
    return head, lines
