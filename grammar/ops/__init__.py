"""The ops of the language, one a file: the file's name is the alias in a space file. `register` adds a user's own.

An alias that ends in digits names the op without them where no op has the full name: `branch4` is `branch` with the
number 4, which the op gets as its first argument.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from archrank.grammar.nearest import did_you_mean
from archrank.grammar.signatures import AdapterOp, Argument, Join, Op, Signature, Split, Structure

ENTRY_POINTS = "archrank.ops"
"""Packages add ops by entry points of this group: name = "package.module", which registers them when imported."""
_NUMBERED = re.compile(r"(.*?[^_\d])_?(\d{1,9})")
_KINDS = (Op, Split, Join, Structure, AdapterOp)
_registered: dict[str, Signature] = {}
_registrations: list[str] = []


@dataclass(frozen=True, slots=True)
class Resolved:
    """The op that an alias names, and the number at the alias's end as its first argument."""

    op: Signature
    number: tuple[Argument, ...] = ()


@cache
def shipped() -> tuple[str, ...]:
    """Names of the ops that have a file."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_")))


@cache
def _installed() -> dict[str, str]:
    """Modules of other packages, by the op's name; none is imported before its op is asked for."""
    return {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}


def available() -> list[str]:
    """Names of all ops: shipped, of installed packages, of the user's own."""
    return sorted({*shipped(), *_installed(), *_registered})


def load(name: str) -> Signature:
    """The op of that name; raises ValueError that lists the known ones."""
    if name in _registered:
        return _registered[name]
    if name in shipped():
        return _shipped(name)
    if name in _installed():
        importlib.import_module(_installed()[name])
        if name in _registered:
            return _registered[name]
        raise ValueError(f"{_installed()[name]} was imported for the op {name!r} and does not register it by ar.op")
    raise ValueError(f"no op {name!r}{did_you_mean(name, available())} Known: {', '.join(available())}")


@cache
def _shipped(name: str) -> Signature:
    op = importlib.import_module(f"archrank.grammar.ops.{name}").OP
    if not isinstance(op, _KINDS):
        raise TypeError(f"grammar/ops/{name}.py: OP is {type(op).__name__}, a signature is needed")
    return op


def resolve(alias: str) -> Resolved | None:
    """What an alias names; None where there is no such op."""
    names = {*shipped(), *_installed(), *_registered}
    if alias in names:
        return Resolved(load(alias))
    found = _NUMBERED.fullmatch(alias)
    if found is not None and found[1] in names:
        return Resolved(load(found[1]), (int(found[2]),))
    return None


def register(op: Signature) -> None:
    """Makes a user's op known. ValueError where a shipped op has the name; a second registration replaces the first,
    so that a file can be run again.
    """
    if op.name in shipped():
        raise ValueError(f"ar.op({op.name!r}): an op of that name is built in; choose another")
    _registered[op.name] = op
    _registrations.append(op.name)


def generation() -> int:
    """How many ops have been registered: what was read before another one may read otherwise now."""
    return len(_registrations)


def load_file(path: str | Path) -> None:
    """Runs a user's file, which registers ops by `ar.op`; SpaceError with its line where that fails."""
    from archrank.grammar.user_ops import load_file as load_user_file

    load_user_file(path)
