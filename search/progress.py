"""What a run says while it runs, on stderr: live on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

from archrank.search.notebook_progress import Bars, notebook_display
from archrank.search.pace import Pace

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichBars
    from rich.progress import TaskID


class Progress(Protocol):
    """What the phases of a run report to."""

    def phase(self, name: str, total: int | None = None, unit: str = "steps", done: int = 0) -> None:
        """Begin a phase of `total` units and end the one before; an earlier process did `done` of them."""

    def update(
        self,
        done: int,
        *,
        best: float | str | None = None,
        hypervolume: float | None = None,
        front: int | None = None,
    ) -> None:
        """`done` units of the phase are finished; `best` is a value or a phrase such as ``loss 0.31``."""

    def note(self, text: str) -> None:
        """A line that stays."""


@contextmanager
def open_progress(enabled: bool = True, *, stream: TextIO | None = None, every: float = 5.0) -> Iterator[Progress]:
    """Progress on a stream (stderr by default): live on a terminal, plain elsewhere, silent if not enabled.

    Without a stream, in a Jupyter notebook, bars in the cell's output.
    Plain lines come at most once in `every` seconds, apart from the first and last of a phase and notes.
    Nothing is ever written to stdout, and a stream that can no longer be written to (a closed pipe) never
    stops a run.
    """
    if enabled and stream is None and (display := notebook_display()) is not None:
        bars = Bars(display)
        try:
            yield bars
        finally:
            bars.close()
        return
    stream = sys.stderr if stream is None else stream
    if not enabled:
        yield Silent()
    elif stream.isatty():
        with _live(stream) as live:
            yield live
    else:
        plain = Plain(stream, every)
        try:
            yield plain
        finally:
            plain.close()


class Silent:
    """Says nothing (``--quiet``)."""

    def phase(self, name: str, total: int | None = None, unit: str = "steps", done: int = 0) -> None:
        """Nothing."""

    def update(
        self,
        done: int,
        *,
        best: float | str | None = None,
        hypervolume: float | None = None,
        front: int | None = None,
    ) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


class Plain:
    """Lines for a log file."""

    def __init__(self, stream: TextIO, every: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._every, self._clock = stream, every, clock
        self._pace: Pace | None = None
        self._said_at = self._said_done = 0.0
        self._broken = False

    def phase(self, name: str, total: int | None = None, unit: str = "steps", done: int = 0) -> None:
        self.close()
        now = self._clock()
        self._pace = Pace(name, total, unit, done, now)
        self._said_at, self._said_done = now, done
        size = "" if total is None else f": {self._pace.count() if done else f'{total:,} {unit}'}"
        self._write(f"{name}{size}")

    def update(
        self,
        done: int,
        *,
        best: float | str | None = None,
        hypervolume: float | None = None,
        front: int | None = None,
    ) -> None:
        if self._pace is None:
            return
        self._pace.heard(done, best, hypervolume, front)
        now = self._clock()
        if now - self._said_at >= self._every:
            self._said_at, self._said_done = now, done
            self._line(self._pace.left(now))

    def note(self, text: str) -> None:
        self._write(text)

    def close(self) -> None:
        """The last line of the phase."""
        if self._pace is not None:
            self._line(self._pace.took(self._clock()))
            self._pace = None

    def _line(self, end: str) -> None:
        if self._pace is not None:
            self._write(f"{self._pace.name}: " + " · ".join(self._pace.parts(end)))

    def _write(self, line: str) -> None:
        if self._broken:
            return
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream was closed
            self._broken = True  # the reader of the log left; the run goes on


class Live:
    """A line that is redrawn, with finished phases above it."""

    def __init__(self, bars: RichBars, clock: Callable[[], float] = time.monotonic) -> None:
        self._bars, self._clock = bars, clock
        self._task: TaskID | None = None
        self._pace: Pace | None = None

    @property
    def console(self) -> Console:
        return self._bars.console

    def phase(self, name: str, total: int | None = None, unit: str = "steps", done: int = 0) -> None:
        self.close()
        self._pace = Pace(name, total, unit, done, self._clock())
        self._task = self._bars.add_task(
            "", total=total, completed=done, phase=name, count=self._pace.count(), facts="", left=""
        )

    def update(
        self,
        done: int,
        *,
        best: float | str | None = None,
        hypervolume: float | None = None,
        front: int | None = None,
    ) -> None:
        if self._pace is None or self._task is None:
            return
        pace = self._pace
        pace.heard(done, best, hypervolume, front)
        self._bars.update(
            self._task,
            completed=done,
            count=pace.count(),
            facts=" · ".join(pace.facts),
            left=pace.left(self._clock()),
        )

    def note(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """The phase is over: its bar stays, with the time it took."""
        if self._pace is not None and self._task is not None:
            self._bars.update(self._task, left=self._pace.took(self._clock()))
            self._bars.stop_task(self._task)
        self._task = self._pace = None


@contextmanager
def _live(stream: TextIO) -> Iterator[Live]:
    # imported here: `search --help` must not pay for it
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as RichBars

    columns = (
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.fields[phase]}", style="bold", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]}", markup=False),
        TextColumn("{task.fields[facts]}", style="cyan", markup=False),
        TextColumn("{task.fields[left]}", style="dim", markup=False),
    )
    # redirect_stdout=False: stdout belongs to --json and is not ours to catch
    bars = RichBars(*columns, console=Console(file=stream), redirect_stdout=False, refresh_per_second=5)
    with bars:
        live = Live(bars)
        try:
            yield live
        finally:
            live.close()
