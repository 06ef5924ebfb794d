"""What a space file or a sentence can get wrong: always a place, what was given, what is allowed."""

from __future__ import annotations

from dataclasses import dataclass

LONGEST_MESSAGE = 1200


class SpaceError(ValueError):
    """A space file or a sentence that cannot be read.

    `str(error)` is `file:line:column: message`; line and column count from 1.
    """

    def __init__(self, file: str, line: int, column: int, message: str) -> None:
        self.file = file
        self.line = max(1, line)
        self.column = max(1, column)
        self.message = shortened(message, LONGEST_MESSAGE)
        super().__init__(file, self.line, self.column, self.message)

    def __str__(self) -> str:
        """`file:line:column: message`."""
        return f"{shortened(self.file, 300)}:{self.line}:{self.column}: {self.message}"


class OpError(ValueError):
    """A user's op whose functions fail or give no shape or count."""


class EmptySpaceError(SpaceError):
    """No sentence of the space meets the asked bounds."""


@dataclass(frozen=True, slots=True)
class Lint:
    """A remark on a file that loads: `code` is stable, `message` is for people."""

    line: int
    column: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a file; both count from 1."""

    line: int
    column: int


def shortened(text: str, limit: int = 60) -> str:
    """The text, or its beginning and an ellipsis where it is longer than `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def listed(words: list[str] | tuple[str, ...], limit: int = 12) -> str:
    """`a, b, c` with `… (30 in all)` where there are more than `limit`."""
    shown = ", ".join(shortened(word) for word in words[:limit])
    return shown if len(words) <= limit else f"{shown}, … ({len(words)} in all)"
