"""Reads a space file: Lark's own grammar of grammars first, then our checks, then Lark itself."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from archrank.grammar import ops
from archrank.grammar.analysis import Facts, analyse, touching
from archrank.grammar.attach import attach
from archrank.grammar.build import Builder
from archrank.grammar.errors import Lint, SpaceError, shortened
from archrank.grammar.layer_writing import bound_grammar
from archrank.grammar.layers import DEFAULT_LENGTH, EncoderLayer, is_layered
from archrank.grammar.meta import LONGEST_FILE, RawFile, read_raw
from archrank.grammar.model import Grammar
from archrank.grammar.modules import slow_reason
from archrank.grammar.nearest import did_you_mean
from archrank.grammar.program import Program
from archrank.grammar.signatures import AdapterOp

if TYPE_CHECKING:
    import lark

_MOST_TRIED = 200


def read(text: str, name: str) -> tuple[Grammar, Facts, Program | None, tuple[Lint, ...]]:
    """The grammar of a file's text, what is true of it, its program where it describes architectures, and remarks;
    raises SpaceError with a place in `name`.

    Nothing of the text is ever evaluated; time and memory are bounded by the limits in `meta`.
    """
    raw = read_raw(name, text)
    notes = attach(name, raw)
    builder = Builder(name, raw, notes)
    grammar = builder.grammar()
    facts, lints = analyse(grammar)
    _check_bounds(grammar)
    program = Program(grammar) if grammar.settings.input is not None and grammar.site is None else None
    if is_layered(grammar):
        Program(bound_grammar(grammar, dict.fromkeys(_any_names(grammar), EncoderLayer(64, 4, 16, 64)), DEFAULT_LENGTH))
    elif grammar.site is not None:
        _check_adapters(grammar)
    ignore = _compiled_by_lark(name, text, raw, grammar)
    grammar = replace(grammar, ignore=ignore, spaced=ignore is not None and ignore.fullmatch(" ") is not None)
    if grammar.site is not None:
        _check_site_file(grammar)
    lints = [*builder.lints, *lints, *touching(grammar)]
    return grammar, facts, program, tuple(sorted(lints, key=lambda lint: (lint.line, lint.column)))


def read_file(path: Path) -> str:
    """A file's text; raises SpaceError where it is missing, too long, or not UTF-8."""
    try:
        length = path.stat().st_size
        if length > 4 * LONGEST_FILE:
            message = (
                f"the file has {length:,} bytes; a space file has at most {LONGEST_FILE:,} characters: split the space"
            )
            raise SpaceError(str(path), 1, 1, message)
        data = path.read_bytes()
    except OSError as error:
        raise SpaceError(str(path), 1, 1, f"cannot be read: {error.strerror or error}") from None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise SpaceError(
            str(path),
            line,
            column,
            f"byte 0x{data[error.start]:02x} is not UTF-8 text; save the file as UTF-8",
        ) from None


def shipped_folder() -> Path:
    """The folder of the shipped spaces, beside this package; read as data, never imported."""
    return Path(__file__).parent.parent / "spaces"


def shipped() -> list[str]:
    """Names of the shipped spaces."""
    return sorted(path.stem for path in shipped_folder().glob("*.lark"))


def find(path_or_name: str | Path) -> Path:
    """The file that a path or a shipped name means; raises SpaceError that names the nearest shipped
    spaces.
    """
    text = str(path_or_name)
    path = Path(text)
    if "\0" not in text and len(text) < 4096:
        if path.is_file():
            return path
        if path.is_dir() and text not in shipped():
            raise SpaceError(text, 1, 1, "is a folder; give a space file or a shipped name")
    names = shipped()
    if text in names:
        return shipped_folder() / f"{text}.lark"
    stem = path.name.removesuffix(".lark")
    message = (
        f"no space {shortened(text)!r}: no such file and no shipped "
        f"space{did_you_mean(stem, names)} Shipped: {', '.join(names)}"
    )
    raise SpaceError(shortened(text), 1, 1, message)


def _check_bounds(grammar: Grammar) -> None:
    for bound in grammar.settings.bounds:
        reason = _unusable(grammar, bound.name)
        if reason:
            raise SpaceError(grammar.file, bound.place.line, bound.place.column, f"max {bound.name}: {reason}")


def _any_names(grammar: Grammar) -> list[str]:
    """Names that the file's terminal takes, to try its ops with: enough that its least split has a layer above it."""
    assert grammar.bound_regex is not None
    splits = grammar.by_head[grammar.split] if grammar.split is not None else ()
    wanted = 1 + min((int(str(grammar.productions[i].items[0])) for i in splits), default=0)
    forms = ("encoder.layer.{}", "layer{}", "l{}", "L{}", "{}", "a.b{}")
    pools = [[form.format(i) for i in range(min(wanted, _MOST_TRIED))] for form in forms]
    pools += [[name] for name in ("layer", "l", "L", "a.b")]
    for names in pools:
        if all(grammar.bound_regex.fullmatch(name) for name in names):
            return names
    place = grammar.places[grammar.bound or 0]
    message = "the bound terminal takes no layer name such as encoder.layer.0; /[A-Za-z_][\\w.]*/ does"
    raise SpaceError(grammar.file, place.line, place.column, message)


def _check_adapters(grammar: Grammar) -> None:
    """Every alias of a space of sites names an adapter family."""
    known = [name for name in ops.available() if isinstance(ops.load(name), AdapterOp)]
    for production in grammar.productions:
        if production.alias is not None and production.alias not in known:
            message = (
                f"no adapter {shortened(production.alias)!r}: an alias of this file names a family with a known "
                f"cost{did_you_mean(production.alias, known)} Known: {', '.join(known)}"
            )
            raise SpaceError(grammar.file, production.place.line, production.place.column, message)


def _check_site_file(grammar: Grammar) -> None:
    """What only makes sense elsewhere is refused, rather than passed over."""
    for production in grammar.productions:
        if max(production.copies, default=1) > 1:
            where, message = production.place, "copies: an adapter stands once at its module; remove it"
            raise SpaceError(grammar.file, where.line, where.column, message)
    place = grammar.places[grammar.start]
    if not grammar.spaced:
        message = r"sites stand side by side, with a space between: add `%ignore /\s+/`"
        raise SpaceError(grammar.file, place.line, place.column, message)
    if grammar.settings.uniform_size:
        message = "prior size = uniform: all sentences of a space of sites have one size; remove it"
        raise SpaceError(grammar.file, place.line, place.column, message)


def _unusable(grammar: Grammar, bound: str) -> str:
    """Why a bound of that name would not be kept, or nothing: no bound is ever passed over in silence."""
    if grammar.site is not None:
        known = ("size", "params", "adapter_params", "flops")
        return "" if bound in known else f"a space of sites has no such bound; it has {', '.join(known)}"
    if bound in ("size", "depth"):
        return ""
    if grammar.settings.input is None:
        return (
            "sentences of this file have no cost; add //@ input = 3x64x64 or //@ target_modules, or bound size or depth"
        )
    if bound == "adapter_params":
        return "a file with //@ input has no adapters; bound params"
    return ""


def _compiled_by_lark(name: str, text: str, raw: RawFile, grammar: Grammar) -> re.Pattern[str] | None:
    """Loads the text with Lark, compares its choices with ours, and gives what a sentence ignores between
    tokens.
    """
    import lark

    # bad regular expressions and odd terminals leave Lark's loader as these, besides its own errors
    escapes = (
        lark.exceptions.LarkError,
        re.error,
        RecursionError,
        OverflowError,
        ValueError,
        AssertionError,
        TypeError,
        KeyError,
        IndexError,
    )
    try:
        compiled = lark.Lark(text, parser="lalr")
    except escapes as error:
        line, column = getattr(error, "line", None), getattr(error, "column", None)
        said = " ".join(str(error).split()) or type(error).__name__
        place = (line if isinstance(line, int) else 1, column if isinstance(column, int) else 1)
        raise SpaceError(
            name,
            min(max(place[0], 1), text.count("\n") + 1),
            place[1],
            f"Lark does not accept the grammar: {shortened(said, 300)}",
        ) from None
    _compare(grammar, compiled)
    ignored = set(compiled.ignore_tokens)
    if not ignored:
        return None
    patterns = [terminal.pattern.to_regexp() for terminal in compiled.terminals if terminal.name in ignored]
    for pattern in patterns:
        reason = slow_reason(pattern)
        if reason:
            raise SpaceError(name, 1, 1, f"%ignore /{shortened(pattern)}/ could take exponential time: {reason}")
    return re.compile("(?:" + "|".join(patterns) + ")+")


def _compare(grammar: Grammar, compiled: lark.Lark) -> None:
    """Both readings must give the same choices; rules that start does not reach are missing in Lark's."""
    ours = {(grammar.names[p.head], p.alias) for p in grammar.productions if p.alias is not None}
    theirs = {(str(rule.origin.name), rule.alias) for rule in compiled.rules if rule.alias is not None}
    strange = _sorted(theirs - ours)
    if strange:
        raise SpaceError(
            grammar.file,
            1,
            1,
            f"Lark reads choices that we do not: {shortened(str(strange), 200)}; please report this file",
        )


def _sorted(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(pairs)
