"""`//@ key(argument) = value, …` comments: read into items with places."""

from __future__ import annotations

import re
from dataclasses import dataclass

from archrank.grammar.errors import Place, SpaceError, shortened
from archrank.grammar.nearest import did_you_mean

BOUNDS = ("size", "depth", "params", "adapter_params", "flops", "activation_bytes")
FILE_KEYS = ("target_modules", "input", "max", "prior")
ALTERNATIVE_KEYS = ("p", "copies")
DEFINITION_KEYS = ("each", "bound")
_EXAMPLES = {
    "target_modules": '//@ target_modules = "all-linear"',
    "input": "//@ input = 3x64x64",
    "max": "//@ max size = 200",
    "prior": "//@ prior size = uniform",
    "p": "//@ p = 0.68/3",
    "copies": "//@ copies(module) = 4",
    "each": "//@ each = target_modules, or each(below) = SPLIT and each(above) = SPLIT",
    "bound": "//@ bound",
}
_ITEM = re.compile(
    r"""\s*(?P<key>[A-Za-z_]\w*)
        (?:[ \t]*\([ \t]*(?P<argument>\w*)[ \t]*\)|[ \t]+(?P<name>[A-Za-z_]\w*))?
        [ \t]*(?:=[ \t]*(?:"(?P<quoted>[^"]*)"|(?P<plain>(?:(?![ \t]{2})[^,"\t])*)))?""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Pragma:
    """One item: `copies(module) = 4` has key `copies`, argument `module`, value `4`; `max size = 9` has
    argument `size`.
    """

    place: Place
    key: str
    argument: str
    value: str | None
    quoted: bool


def read_pragmas(file: str, place: Place, text: str) -> list[Pragma]:
    """The items of one comment; `text` is what follows `//@`, `place` where that begins.

    Items are separated by commas. Words after a quoted value, or after two spaces, are for people.
    """
    found: list[Pragma] = []
    at = 0
    while True:
        item = _ITEM.match(text, at)
        here = Place(place.line, place.column + at + (len(text[at:]) - len(text[at:].lstrip())))
        if item is None:
            raise SpaceError(file, here.line, here.column, _unreadable(text[at:]))
        found.append(_pragma(file, here, item))
        at = item.end()
        rest = text[at:]
        if rest.lstrip().startswith(","):
            at += len(rest) - len(rest.lstrip()) + 1
            continue
        if not rest.strip() or rest[0] in " \t":
            return found
        raise SpaceError(file, here.line, place.column + at, _unreadable(rest))


def _unreadable(rest: str) -> str:
    return (
        f"cannot read the pragma at {shortened(rest.strip())!r}; write `//@ key = value`, several "
        "separated by commas, such as //@ p = 0.5"
    )


def _pragma(file: str, place: Place, item: re.Match[str]) -> Pragma:
    key = item["key"]
    known = (*FILE_KEYS, *ALTERNATIVE_KEYS, *DEFINITION_KEYS)
    if key not in known:
        message = f"unknown pragma {shortened(key)!r}{did_you_mean(key, known)} Known: {', '.join(known)}"
        raise SpaceError(file, place.line, place.column, message)
    argument = item["argument"] or item["name"] or ""
    value = item["quoted"] if item["quoted"] is not None else item["plain"]
    if value is not None:
        value = value.strip()
    named = key in ("max", "prior", "copies") or (key == "each" and bool(argument))
    if named != bool(argument) or (key == "bound") != (value is None) or value == "":
        raise SpaceError(file, place.line, place.column, f"pragma {key!r} is written as {_EXAMPLES[key]}")
    return Pragma(place, key, argument, value, item["quoted"] is not None)
