"""From a file or a text to a Space: reading, and the checks that need the bounds."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from archrank.grammar import ops, reader
from archrank.grammar.analysis import Facts, branching
from archrank.grammar.errors import EmptySpaceError, Lint, Place, SpaceError
from archrank.grammar.layers import is_layered
from archrank.grammar.model import Grammar
from archrank.grammar.sites import site_options
from archrank.grammar.space import Space


def load(path_or_name: str | Path) -> Space:
    """The space of a file, or of a shipped name; raises SpaceError with file, line, column and a remedy."""
    path = reader.find(path_or_name)
    return _made(reader.read_file(path), path.stem, str(path), path)


def loads(text: str, name: str = "<text>") -> Space:
    """The space of a file's text; `name` stands in error messages."""
    if not isinstance(text, str):
        raise TypeError(f"a space file's text is needed, not {type(text).__name__}")
    return _made(text, name, name, None)


def _made(text: str, name: str, file: str, path: Path | None) -> Space:
    return _read(text, name, file, path, ops.generation())


@lru_cache(maxsize=32)
def _read(text: str, name: str, file: str, path: Path | None, generation: int) -> Space:
    """A Space never changes, so that one text read twice is the same one, until a user registers another op."""
    grammar, facts, program, lints = reader.read(text, file)
    bounds = {bound.name: bound.value for bound in grammar.settings.bounds}
    layered = is_layered(grammar)
    options = site_options(grammar, facts) if grammar.site is not None and not layered else ()
    space = Space(name, path, text, grammar, facts, program, lints, bounds, {}, options)
    if grammar.site is None:
        _check_bounds(space, grammar)
    space.lints = (*lints, *_growth(space, grammar, facts))
    return space


def _check_bounds(space: Space, grammar: Grammar) -> None:
    """Refuses bounds that no sentence meets, or that no counting table holds, at their own place."""
    places = {bound.name: bound.place for bound in grammar.settings.bounds}
    place = places.get("size") or places.get("depth") or Place(1, 1)
    try:
        trees = space.trees()
        if trees.is_empty():
            smallest = trees.skeleton.smallest[trees.skeleton.start]
            message = (
                f"no sentence meets max size = {space.bounds['size']:g}: the smallest has size "
                f"{smallest}; raise the bound"
            )
            raise SpaceError(grammar.file, place.line, place.column, message)
        if trees.tabled:
            trees.check_table()
    except EmptySpaceError as error:
        place = places["depth"]
        raise SpaceError(grammar.file, place.line, place.column, error.message + "; raise the bound") from None
    except SpaceError:
        raise
    except ValueError as error:
        raise SpaceError(grammar.file, place.line, place.column, str(error)) from None


def _growth(space: Space, grammar: Grammar, facts: Facts) -> list[Lint]:
    """How fast a recursive grammar branches, with the sizes under its bound."""
    if grammar.site is not None or not facts.recursive:
        return []
    plain, copied = branching(grammar, facts.recursive)
    trees = space.trees()
    place = grammar.places[grammar.start]
    said = f"branching rate {plain:.3g} of derivations, {copied:.3g} with every copy counted"
    if trees.high is None:
        if copied < 1:
            return [Lint(place.line, place.column, "branching", f"{said}; there is no bound on size")]
        message = f"{said}: at 1 or above samples have no finite mean size; add //@ max size = 200"
        return [Lint(place.line, place.column, "branching", message)]
    return [Lint(place.line, place.column, "branching", said + trees.size_summary())]
