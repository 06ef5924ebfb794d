"""Data that cannot be used."""

from __future__ import annotations

__all__ = ["DataError"]


class DataError(ValueError):
    """A data set that cannot be read, or not for this task; the message says what was found and what to do."""
