"""The space and the sentence that a command names."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from archrank.search.config import ConfigError
from archrank.search.errors import SentenceError

if TYPE_CHECKING:
    from archrank.grammar import Derivation, Space, SpaceError
    from archrank.grammar.architecture import Architecture

__all__ = ["add_text", "elaborated", "given_space", "numbers", "read_sentence"]

LONGEST_FILE = 4_000_000
_AROUND = 36


def add_text(parser: argparse.ArgumentParser) -> None:
    """TEXT."""
    parser.add_argument("text", metavar="TEXT", help="a sentence of the space; - reads stdin, @FILE a file")


def given_space(args: argparse.Namespace) -> Space:
    """SPACE with the ops of --ops, for the input of --input or the base of --base."""
    from archrank import grammar
    from archrank.grammar import ops
    from archrank.search.binding import bound_space

    for file in args.ops:
        ops.load_file(file)
    space = grammar.load(args.space)
    if args.input is not None:
        space = _for_input(space, args.input)
    return bound_space(space, base=getattr(args, "base", None), target_modules=getattr(args, "target_modules", None))


def _for_input(space: Space, text: str) -> Space:
    from archrank.search.binding import read_shape

    if not space.is_architecture_space:
        raise ConfigError(f"--input {text}: sentences of {space.name} are no architectures; leave --input out")
    shape = read_shape(text)
    if not shape:
        raise ConfigError(
            f"--input {text}: write channels x height x width, such as 3x32x32, or length x width, such as 128x64, "
            "each at least 1"
        )
    return space.with_input(shape)


def read_sentence(space: Space, text: str) -> Derivation:
    """The candidate that TEXT writes. SentenceError with the place under the text where it is none of the space."""
    from archrank.grammar import SpaceError

    found = _text(text)
    try:
        return space.parse(found)
    except SpaceError as error:
        raise SentenceError(pointed(found, error)) from None


def elaborated(space: Space, d: Derivation) -> Architecture:
    """The graph of a sentence. SentenceError with the place under the text where an op does not fit its input."""
    from archrank.grammar import SpaceError

    try:
        return space.elaborate(d)
    except SpaceError as error:
        raise SentenceError(pointed(d.text, error)) from None


def numbers(space: Space, d: Derivation) -> dict[str, object]:
    """key, log_prob, params, flops in JSON; None for a probability of 0, and for costs where sentences have none."""
    log_prob = space.log_prob(d)
    found: dict[str, object] = {"key": d.key, "log_prob": log_prob if log_prob > float("-inf") else None}
    if space.is_architecture_space:
        architecture = elaborated(space, d)
        return found | {"params": architecture.params, "flops": architecture.flops}
    if space.is_site_space:
        cost = space.cost(d)
        return found | {"params": cost.params, "flops": cost.flops}
    return found | {"params": None, "flops": None}


def _text(text: str) -> str:
    if text == "-":
        raw = sys.stdin.buffer.read(LONGEST_FILE + 1)
    elif text.startswith("@"):
        try:
            with Path(text[1:]).open("rb") as file:
                raw = file.read(LONGEST_FILE + 1)
        except OSError as error:
            raise ConfigError(f"TEXT {text}: cannot be read: {error.strerror or error}") from None
    else:
        return text
    name = "stdin" if text == "-" else text[1:]
    if len(raw) > LONGEST_FILE:
        raise ConfigError(f"TEXT {text}: {name} has more than {LONGEST_FILE:,} bytes; a sentence is shorter")
    try:
        found = raw.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise ConfigError(f"TEXT {text}: {name} is not UTF-8 text (byte {error.start + 1})") from None
    if not found:
        raise ConfigError(f"TEXT {text}: {name} is empty; give one sentence, as `search sample` prints it")
    return found


def pointed(text: str, error: SpaceError) -> str:
    """The message with the piece of the sentence that it is about, and a caret under the place."""
    lines = text.split("\n")
    line = lines[min(error.line, len(lines)) - 1]
    at = min(error.column - 1, len(line))
    start = max(0, at - _AROUND)
    piece = line[start : at + _AROUND]
    before, after = "…" if start else "", "…" if at + _AROUND < len(line) else ""
    shown = "".join(c if c.isprintable() else " " for c in piece)
    caret = " " * (len(before) + at - start) + "^"
    return f"{error.line}:{error.column}: {error.message}\n  {before}{shown}{after}\n  {caret}"
