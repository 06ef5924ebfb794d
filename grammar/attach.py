"""Which alternative, rule, terminal or file a pragma belongs to: the one on its line."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from archrank.grammar.arithmetic import number
from archrank.grammar.errors import Place, SpaceError, shortened
from archrank.grammar.meta import Alternative, Definition, RawFile
from archrank.grammar.model import Bound, Settings
from archrank.grammar.nearest import did_you_mean
from archrank.grammar.pragmas import ALTERNATIVE_KEYS, BOUNDS, DEFINITION_KEYS, Pragma, read_pragmas

MOST_COPIES = 65_536
SIDES = ("below", "above")
_INPUT = re.compile(r"[0-9]{1,7}(?:\s*x\s*[0-9]{1,7}){0,2}")


@dataclass
class Notes:
    """The pragmas of a file, by what they are about; alternatives are keyed by (definition, index). `sides`: of a rule
    with `each(below) = SPLIT`, ("below", "SPLIT").
    """

    settings: Settings = field(default_factory=Settings)
    p: dict[tuple[str, int], float] = field(default_factory=dict)
    copies: dict[tuple[str, int], dict[str, tuple[int, Place]]] = field(default_factory=dict)
    each: dict[str, Place] = field(default_factory=dict)
    sides: dict[str, tuple[str, str]] = field(default_factory=dict)
    bound: dict[str, Place] = field(default_factory=dict)


def attach(file: str, raw: RawFile) -> Notes:
    """Reads every `//@` comment and gives each item its owner; raises SpaceError where it has none."""
    notes = Notes()
    by_line: dict[int, list[tuple[Definition, int, Alternative]]] = {}
    owners: dict[int, Definition] = {}
    for definition in raw.definitions:
        for line in range(definition.place.line, definition.last_line + 1):
            owners[line] = definition
        for index, alternative in enumerate(definition.alternatives):
            for line in range(alternative.place.line, alternative.last_line + 1):
                by_line.setdefault(line, []).append((definition, index, alternative))
    taken: set[tuple[str, str]] = set()
    for place, text in raw.comments:
        for pragma in read_pragmas(file, place, text):
            here = by_line.get(pragma.place.line, [])
            if pragma.key in ALTERNATIVE_KEYS:
                _of_alternative(file, pragma, here, notes)
            elif pragma.key in DEFINITION_KEYS:
                _of_definition(file, pragma, owners.get(pragma.place.line), notes)
            elif here:
                raise _error(file, pragma, f"{pragma.key!r} is about the whole file: put it on a line of its own")
            else:
                _of_file(file, pragma, notes, taken)
    return notes


def _error(file: str, pragma: Pragma, message: str) -> SpaceError:
    return SpaceError(file, pragma.place.line, pragma.place.column, message)


def _value(file: str, pragma: Pragma) -> float:
    try:
        return number(pragma.value or "")
    except ValueError as error:
        raise _error(file, pragma, f"{pragma.key}: {error}") from None


def _of_alternative(file: str, pragma: Pragma, here: list[tuple[Definition, int, Alternative]], notes: Notes) -> None:
    if len(here) != 1:
        where = "there is none on this line" if not here else f"{len(here)} stand on this line: one alternative a line"
        raise _error(file, pragma, f"{pragma.key!r} belongs to an alternative, and {where}")
    definition, index, alternative = here[0]
    key = (definition.name, index)
    if pragma.key == "p":
        value = _value(file, pragma)
        if not 0 <= value <= 1:
            raise _error(
                file,
                pragma,
                f"p = {shortened(pragma.value or '')} is {value:g}; a probability lies in [0, 1]",
            )
        if key in notes.p:
            raise _error(file, pragma, "a second p for this alternative: keep one")
        notes.p[key] = value
        return
    child = pragma.argument
    symbols = [item.text for item in alternative.items if item.kind == "rule"]
    if child not in symbols:
        message = (
            f"copies({shortened(child)}): the alternative has no such "
            f"rule{did_you_mean(child, symbols)} Its rules: {', '.join(symbols) or 'none'}"
        )
        raise _error(file, pragma, message)
    count = _value(file, pragma)
    if count != int(count) or not 1 <= count <= MOST_COPIES:
        raise _error(
            file,
            pragma,
            f"copies({child}) = {shortened(pragma.value or '')}: a whole number from 1 to {MOST_COPIES:,} is needed",
        )
    of_this = notes.copies.setdefault(key, {})
    if child in of_this:
        raise _error(file, pragma, f"a second copies({child}) for this alternative: keep one")
    of_this[child] = (int(count), pragma.place)


def _of_definition(file: str, pragma: Pragma, owner: Definition | None, notes: Notes) -> None:
    wanted = "terminal" if pragma.key == "bound" else "rule"
    if owner is None or owner.is_terminal != (wanted == "terminal"):
        raise _error(file, pragma, f"{pragma.key!r} belongs on the line of a {wanted}")
    found = notes.bound if pragma.key == "bound" else notes.each
    if owner.name in found:
        raise _error(file, pragma, f"a second {pragma.key!r} for {shortened(owner.name)}: keep one")
    if pragma.key == "each" and pragma.argument:
        if pragma.argument not in SIDES:
            raise _error(file, pragma, f"each({shortened(pragma.argument)}): {' and '.join(SIDES)} a split are known")
        notes.sides[owner.name] = (pragma.argument, pragma.value or "")
    elif pragma.key == "each" and pragma.value != "target_modules":
        raise _error(file, pragma, f"each = {shortened(pragma.value or '')}: only `each = target_modules` is known")
    found[owner.name] = pragma.place


def _of_file(file: str, pragma: Pragma, notes: Notes, taken: set[tuple[str, str]]) -> None:
    name = (pragma.key, pragma.argument)
    if name in taken:
        raise _error(file, pragma, f"a second {' '.join(name).strip()}: keep one")
    taken.add(name)
    old = notes.settings
    value = pragma.value or ""
    if pragma.key == "target_modules":
        if not pragma.quoted:
            raise _error(file, pragma, 'target_modules is a quoted text: //@ target_modules = "all-linear"')
        notes.settings = Settings(value, pragma.place, old.input, old.bounds, old.uniform_size)
    elif pragma.key == "input":
        notes.settings = Settings(
            old.target_modules, old.target_place, _input(file, pragma), old.bounds, old.uniform_size
        )
    elif pragma.key == "prior":
        if pragma.argument != "size" or value != "uniform":
            raise _error(file, pragma, "the one prior that can be stated is //@ prior size = uniform")
        notes.settings = Settings(old.target_modules, old.target_place, old.input, old.bounds, True)
    else:
        bounds = (*old.bounds, _bound(file, pragma))
        notes.settings = Settings(old.target_modules, old.target_place, old.input, bounds, old.uniform_size)


def _input(file: str, pragma: Pragma) -> tuple[int, ...]:
    text = pragma.value or ""
    sizes = tuple(int(part) for part in text.split("x")) if _INPUT.fullmatch(text) else ()
    if not sizes or min(sizes) < 1 or math.prod(sizes) > 2**31:
        message = (
            f"input = {shortened(text)}: channels x height x width, such as 3x64x64, length x width, or a number of "
            "tokens, each at least 1 and 2^31 values at most"
        )
        raise _error(file, pragma, message)
    return sizes


def _bound(file: str, pragma: Pragma) -> Bound:
    if pragma.argument not in BOUNDS:
        message = (
            f"max {shortened(pragma.argument)}: no such "
            f"bound{did_you_mean(pragma.argument, BOUNDS)} Known: {', '.join(BOUNDS)}"
        )
        raise _error(file, pragma, message)
    value = _value(file, pragma)
    if value < 0:
        raise _error(file, pragma, f"max {pragma.argument} = {value:g}: a bound is not negative")
    return Bound(pragma.argument, value, pragma.place)
