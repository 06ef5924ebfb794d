"""Progress in a Jupyter notebook: a bar for each phase in the cell's output, redrawn in place. Needs no widgets."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from html import escape
from importlib import import_module
from typing import Any, Protocol

from archrank.search.pace import Pace

__all__ = ["Bars", "notebook_display"]

EVERY = 0.3
"""Seconds between two drawings: a kernel that floods its page makes the notebook slow."""


class Handle(Protocol):
    """An output that can be replaced."""

    def update(self, html: str, /) -> None:
        """Shows this in its place."""


Display = Callable[[str], Handle]


def notebook_display() -> Display | None:
    """What shows HTML in the running notebook; None where there is none (a terminal's IPython included)."""
    found = sys.modules.get("IPython")  # in a notebook it is loaded already
    shell = found.get_ipython() if found is not None and hasattr(found, "get_ipython") else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    shown = import_module("IPython.display")
    return lambda html: _Output(shown, html)


class _Output:
    """One output of a cell, through IPython's display module."""

    def __init__(self, shown: Any, html: str) -> None:
        self._shown = shown
        self._handle = shown.display(shown.HTML(html), display_id=True)

    def update(self, html: str, /) -> None:
        self._handle.update(self._shown.HTML(html))


class Bars:
    """Finished phases above the running one, notes below; see `archrank.search.progress.Progress`."""

    def __init__(self, display: Display, clock: Callable[[], float] = time.monotonic) -> None:
        self._display, self._clock = display, clock
        self._handle: Handle | None = None
        self._ended: list[str] = []
        self._notes: list[str] = []
        self._pace: Pace | None = None
        self._drawn_at = -EVERY

    def phase(self, name: str, total: int | None = None, unit: str = "steps", done: int = 0) -> None:
        """A new bar."""
        self.close()
        self._pace = Pace(name, total, unit, done, self._clock())
        self._draw()

    def update(
        self,
        done: int,
        *,
        best: float | str | None = None,
        hypervolume: float | None = None,
        front: int | None = None,
    ) -> None:
        """The bar moves, at most once in EVERY seconds."""
        if self._pace is None:
            return
        self._pace.heard(done, best, hypervolume, front)
        if self._clock() - self._drawn_at >= EVERY:
            self._draw()

    def note(self, text: str) -> None:
        """A line below the bars."""
        self._notes.append(f"<div>{escape(text)}</div>")
        self._draw()

    def close(self) -> None:
        """The phase is over: its bar stays, with the time it took."""
        if self._pace is not None:
            self._ended.append(self._row(self._pace, self._pace.took(self._clock())))
            self._pace = None
            self._draw()

    def _draw(self) -> None:
        self._drawn_at = self._clock()
        rows = list(self._ended)
        if self._pace is not None:
            rows.append(self._row(self._pace, self._pace.left(self._drawn_at)))
        html = f'<div style="font:13px system-ui,sans-serif">{"".join([*rows, *self._notes])}</div>'
        if self._handle is None:
            self._handle = self._display(html)
        else:
            self._handle.update(html)

    def _row(self, pace: Pace, end: str) -> str:
        told = " · ".join(pace.parts(end))
        size = "" if pace.total is None else f' max="{max(pace.total, 1)}" value="{pace.done}"'
        return f"<div><b>{escape(pace.name)}</b> <progress{size}></progress> {escape(told)}</div>"
