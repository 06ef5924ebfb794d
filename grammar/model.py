"""A space file's contents as plain data: nonterminals, productions, settings. Flat tuples of integers and
texts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from archrank.grammar.errors import Place


@dataclass(frozen=True, slots=True)
class Production:
    """One alternative of a rule, or one value of a terminal.

    `items` holds texts (written as they are) and nonterminals (their index); `children` are the latter,
    `copies` how many copies of its subtree each of them stands for. `size` is 1 where there is an alias,
    otherwise 0. `fixed`: arguments of its op that come from the base.
    """

    head: int
    items: tuple[int | str, ...]
    children: tuple[int, ...]
    copies: tuple[int, ...]
    alias: str | None
    label: str
    p: float
    log_p: float
    size: int
    place: Place
    fixed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Bound:
    """One `//@ max NAME = V`."""

    name: str
    value: float
    place: Place


@dataclass(frozen=True, slots=True)
class Settings:
    """The file's own pragmas."""

    target_modules: str | None = None
    target_place: Place | None = None
    input: tuple[int, ...] | None = None
    bounds: tuple[Bound, ...] = ()
    uniform_size: bool = False


@dataclass(frozen=True)
class Grammar:
    """A file that has been read and checked.

    `names`, `terminal`, `places` are per nonterminal (rules and terminals alike), `by_head` its
    productions. `bound` is the terminal whose values come from the base (`bound_regex` what its names look
    like) and `site` the rule that repeats once per module; both None in a space that adapts nothing.
    Texts in `apart` are written with a space before them. In a space over layers `each` are the rules that repeat
    the site rule, (rule, "all", "below" or "above"), and `split` the terminal that says where the latter two meet.
    """

    file: str
    names: tuple[str, ...]
    terminal: tuple[bool, ...]
    places: tuple[Place, ...]
    productions: tuple[Production, ...]
    by_head: tuple[tuple[int, ...], ...]
    start: int
    settings: Settings
    ignore: re.Pattern[str] | None
    spaced: bool
    bound: int | None
    bound_regex: re.Pattern[str] | None
    site: int | None
    apart: frozenset[str] = frozenset()
    each: tuple[tuple[int, str], ...] = ()
    split: int | None = None
