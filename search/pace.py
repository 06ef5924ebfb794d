"""How far a phase is, how long the rest takes and what is known of it: the parts of every kind of progress line."""

from __future__ import annotations

from archrank.search.report.text import duration, number

__all__ = ["Pace"]


class Pace:
    """How far a phase is and how long the rest takes; an earlier process's units say nothing about speed."""

    def __init__(self, name: str, total: int | None, unit: str, done: int, now: float) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.first = self.done = done
        self.start = now
        self.facts: list[str] = []
        """The parts of a line that are known: the last that were told."""

    def heard(self, done: int, best: float | str | None, hypervolume: float | None, front: int | None) -> None:
        """`done` units are finished; where nothing else is told, the facts stay as they were."""
        self.done = done
        said = best if isinstance(best, str) or best is None else number(best)
        parts = [("best", said), ("hypervolume", None if hypervolume is None else number(hypervolume, "", 4))]
        parts.append(("front", None if front is None else f"{front:,}"))
        self.facts = [f"{name} {value}" for name, value in parts if value is not None] or self.facts

    def left(self, now: float) -> str:
        """Such as "3 min 02 s left"; empty while nothing is known."""
        seconds = self.remaining(now)
        return "" if seconds is None else f"{duration(seconds)} left"

    def took(self, now: float) -> str:
        """Such as "took 3 min 02 s"."""
        return f"took {duration(now - self.start)}"

    def remaining(self, now: float) -> float | None:
        """Seconds, or None while nothing is known."""
        fresh = self.done - self.first
        if self.total is None or fresh <= 0:
            return None
        return (now - self.start) / fresh * max(self.total - self.done, 0)

    def parts(self, end: str) -> list[str]:
        """Of a line: how far, the facts, and `end` unless it is empty."""
        return [self.count(), *self.facts, *([end] if end else [])]

    def count(self) -> str:
        whole = "" if self.total is None else f"/{self.total:,}"
        return f"{self.done:,}{whole} {self.unit}"
