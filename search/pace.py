"""How far a phase is, how long the rest takes and what is known of it: the parts of every kind of progress line."""

from __future__ import annotations

from archrank.search.report.text import number

__all__ = ["Pace", "facts"]


class Pace:
    """How far a phase is and how long the rest takes; an earlier process's units say nothing about speed."""

    def __init__(self, name: str, total: int | None, unit: str, done: int, now: float) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.first = self.done = done
        self.start = now

    def remaining(self, now: float) -> float | None:
        """Seconds, or None while nothing is known."""
        fresh = self.done - self.first
        if self.total is None or fresh <= 0:
            return None
        return (now - self.start) / fresh * max(self.total - self.done, 0)

    def count(self) -> str:
        whole = "" if self.total is None else f"/{self.total:,}"
        return f"{self.done:,}{whole} {self.unit}"


def facts(best: float | str | None, hypervolume: float | None, front: int | None) -> list[str]:
    """The parts of a line that are known."""
    said = best if isinstance(best, str) or best is None else number(best)
    parts = [("best", said), ("hypervolume", None if hypervolume is None else number(hypervolume, "", 4))]
    parts.append(("front", None if front is None else f"{front:,}"))
    return [f"{name} {value}" for name, value in parts if value is not None]
