"""The shipped search spaces: each `*.lark` file here is one, its name without the ending is how it is asked
for.
"""

from __future__ import annotations

from pathlib import Path

from archrank import grammar
from archrank.spaces.tables import read_table

__all__ = ["available", "load", "path", "read_table", "summary"]

_FOLDER = Path(__file__).parent


def available() -> list[str]:
    """Names of the shipped spaces."""
    return sorted(path.stem for path in _FOLDER.glob("*.lark"))


def path(name: str) -> Path:
    """The file of a shipped space; raises SpaceError that names the near ones."""
    if name not in available():
        near = grammar.nearest(name, available())
        hint = f"; did you mean {' or '.join(near)}?" if near else "."
        raise grammar.SpaceError(
            name[:200], 1, 1, f"no shipped space {name[:60]!r}{hint} Shipped: {', '.join(available())}"
        )
    return _FOLDER / f"{name}.lark"


def load(name: str) -> grammar.Space:
    """The shipped space of that name; raises SpaceError that names the near ones."""
    return grammar.load(path(name))


def sentences(name: str) -> dict[str, str]:
    """Sentences of known networks in a shipped space, by the network's name; {} where it has none.

    The texts are laid out over several lines: `load(name).parse(text)` reads them. Raises SpaceError where there is no
    such space.
    """
    folder = path(name).parent / "sentences" / name
    return {file.stem: file.read_text(encoding="utf-8").strip() for file in sorted(folder.glob("*.txt"))}


def summary(name: str) -> str:
    """One line on what the space holds: the first comment of its file."""
    first = path(name).read_text(encoding="utf-8").split("\n", 1)[0]
    return first.removeprefix("//").split(":", 1)[-1].strip().rstrip(".")
