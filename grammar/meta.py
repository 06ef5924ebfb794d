"""The first reading: the file through Lark's own grammar of grammars, before Lark compiles anything.

What the space language does not map back to a choice is refused here: some of it costs Lark seconds and
gigabytes.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from archrank.grammar.errors import Place, SpaceError, shortened

if TYPE_CHECKING:
    import lark

LONGEST_FILE = 128 * 1024
LONGEST_LINE = 2000
MOST_BLANK_LINES = 500
MOST_DEFINITIONS = 500
MOST_ALTERNATIVES = 2000
MOST_ITEMS = 64
_DEFINITION = re.compile(r"^[!?_]*[A-Za-z]\w*[^\"/\n:|]*:", re.MULTILINE)
_ALIAS = re.compile(r"[a-z][_a-z0-9]*")
_reading = threading.Lock()


@dataclass(frozen=True, slots=True)
class Item:
    """One symbol of an alternative; `kind` is rule, terminal, literal or regex; `repeated` stands for a `+`
    behind it.
    """

    kind: str
    text: str
    place: Place
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Alternative:
    """One alternative as written, from `place` to `last_line`."""

    items: tuple[Item, ...]
    alias: str | None
    place: Place
    last_line: int


@dataclass(frozen=True, slots=True)
class Definition:
    """A rule or a terminal as written."""

    name: str
    is_terminal: bool
    place: Place
    last_line: int
    alternatives: tuple[Alternative, ...]


@dataclass(frozen=True, slots=True)
class RawFile:
    """What stands in a file; `comments` are those that begin with `//@`, with the place behind that mark."""

    definitions: tuple[Definition, ...]
    imported: tuple[str, ...]
    ignored: tuple[str, ...]
    comments: tuple[tuple[Place, str], ...]


@cache
def _parser() -> tuple[lark.Lark, list[lark.Token]]:
    """Lark's grammar of grammars, and the list that takes comments and brackets of the text being read."""
    import lark

    seen: list[lark.Token] = []

    def note(token: lark.Token) -> lark.Token:
        seen.append(token)
        return token

    parser = lark.Lark.open(
        "grammars/lark.lark", rel_to=lark.__file__, parser="lalr", propagate_positions=True,
        maybe_placeholders=False, lexer_callbacks={"COMMENT": note, "LPAR": note},
    )  # fmt: skip
    return parser, seen


def check_size(file: str, text: str) -> None:
    """Refuses what would cost time or memory to read at all: size, line length, rules, NUL, runs that make
    a lexer backtrack.
    """
    if len(text) > LONGEST_FILE:
        raise SpaceError(
            file,
            1,
            1,
            f"the file has {len(text):,} characters; a space file has at most {LONGEST_FILE:,}: split the space",
        )
    if "\0" in text:
        at = text.index("\0")
        raise SpaceError(
            file,
            text.count("\n", 0, at) + 1,
            at - text.rfind("\n", 0, at),
            "a NUL character: this is not a text file",
        )
    blank = 0
    for count, line in enumerate(text.split("\n"), start=1):
        blank = 0 if line.strip() else blank + 1
        if blank > MOST_BLANK_LINES:  # Lark's lexer takes quadratic time over them
            raise SpaceError(file, count, 1, f"more than {MOST_BLANK_LINES} empty lines in a row: remove them")
        if len(line) > LONGEST_LINE:
            message = (
                f"a line of {len(line):,} characters; at most {LONGEST_LINE:,} are read: break it, "
                "one alternative a line"
            )
            raise SpaceError(file, count, LONGEST_LINE, message)
    for count, found in enumerate(_DEFINITION.finditer(text), start=1):
        if count > MOST_DEFINITIONS:
            raise SpaceError(
                file,
                text.count("\n", 0, found.start()) + 1,
                1,
                f"more than {MOST_DEFINITIONS} rules and terminals: split the space",
            )
    tail = text[text.rfind("/") + 1 :]
    if tail.count("\\\\") > 12:
        at = text.rfind("/") + 1 + tail.index("\\\\")
        message = "more than 12 pairs of backslashes and no `/` behind them: an unfinished regular expression?"
        raise SpaceError(file, text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at), message)


def read_raw(file: str, text: str) -> RawFile:
    """Reads a file's text; raises SpaceError at the first thing that is malformed or not part of the space
    language.
    """
    import lark

    check_size(file, text)
    with _reading:
        parser, seen = _parser()
        seen.clear()
        try:
            tree = parser.parse(text if text.endswith("\n") else text + "\n")
        except lark.exceptions.UnexpectedInput as error:
            raise _malformed(file, text, error) from None
        tokens = list(seen)
        seen.clear()
    _refuse_groups(file, text, tokens)
    definitions: list[Definition] = []
    imported: list[str] = []
    ignored: list[str] = []
    for node in tree.children:
        if not isinstance(node, lark.Tree):
            continue
        if node.data in ("rule", "token"):
            definitions.append(_definition(file, node))
        else:
            _statement(file, node, imported, ignored)
    _count_alternatives(file, definitions)
    return RawFile(tuple(definitions), tuple(imported), tuple(ignored), tuple(_comments(tokens)))


def _malformed(file: str, text: str, error: lark.exceptions.UnexpectedInput) -> SpaceError:
    last = text.count("\n") + 1
    line = error.line if isinstance(error.line, int) and 1 <= error.line <= last else last
    column = error.column if isinstance(error.column, int) and error.column > 0 else 1
    lines = text.split("\n")
    found = lines[line - 1][column - 1 :].strip()
    said = f"unexpected {shortened(found, 40)!r}" if found else "the file ends, or the line breaks, too early"
    return SpaceError(
        file,
        line,
        column,
        f'{said}: this is not a Lark grammar; a rule is written `name: "keyword" other -> alias`',
    )


def _refuse_groups(file: str, text: str, tokens: list[lark.Token]) -> None:
    lines = text.split("\n")
    for token in tokens:
        if token.type == "LPAR" and not lines[(token.line or 1) - 1].lstrip().startswith("%"):
            message = 'groups `( … )` are not read: give the choice a rule of its own, or quote a bracket, "("'
            raise SpaceError(file, token.line or 1, token.column or 1, message)


def _count_alternatives(file: str, definitions: list[Definition]) -> None:
    count = 0
    for definition in definitions:
        count += len(definition.alternatives)
        if count > MOST_ALTERNATIVES:
            place = definition.place
            raise SpaceError(
                file, place.line, place.column, f"more than {MOST_ALTERNATIVES} alternatives: split the space"
            )


def _comments(tokens: list[lark.Token]) -> Iterator[tuple[Place, str]]:
    """`//@` comments; a COMMENT token begins with the white space before it, newlines included."""
    for token in tokens:
        body = str(token)
        if token.type != "COMMENT" or not body.lstrip().startswith("//@"):
            continue
        lead = body[: body.index("//@")]
        newlines = lead.count("\n")
        column = len(lead) - lead.rfind("\n") if newlines else (token.column or 1) + len(lead)
        yield Place((token.line or 1) + newlines, column + 3), body[len(lead) + 3 :].rstrip("\r")


def _statement(file: str, node: lark.Tree[lark.Token], imported: list[str], ignored: list[str]) -> None:
    import lark

    place = _place(node)
    if node.data == "ignore":
        ignored.extend(
            str(token)
            for token in node.scan_values(lambda value: isinstance(value, lark.Token) and value.type == "TOKEN")
        )
        return
    words = [str(token) for token in node.scan_values(lambda value: isinstance(value, lark.Token))]
    if node.data == "import" and words[:1] == ["common"] and len(words) in (3, 4):
        imported.append(words[-1])
        return
    said = "%" + str(node.data).removesuffix("_rule").replace("multi_import", "import")
    message = (
        f"{said} is not read here: a space is one file; only `%ignore` and `%import common.WS` are "
        "taken. Copy the rules into this file"
    )
    raise SpaceError(file, place.line, place.column, message)


def _place(node: lark.Tree[lark.Token], otherwise: Place | None = None) -> Place:
    if node.meta.empty:
        return otherwise or Place(1, 1)
    return Place(node.meta.line, node.meta.column)


def _definition(file: str, node: lark.Tree[lark.Token]) -> Definition:
    import lark

    name_token, params, *rest = node.children
    assert isinstance(name_token, lark.Token)
    assert isinstance(params, lark.Tree)
    name = str(name_token)
    place = Place(name_token.line or 1, name_token.column or 1)
    is_terminal = node.data == "token"
    if not is_terminal and name[0] in "?!_":
        message = (
            f"rule {shortened(name)!r} begins with {name[0]!r}, which hides choices from a "
            f"derivation; name it {shortened(name.lstrip('?!_'))!r}"
        )
        raise SpaceError(file, place.line, place.column, message)
    if params.children:
        raise SpaceError(
            file,
            place.line,
            place.column,
            f"{shortened(name)!r} is a template; write one rule for each use of it",
        )
    expansions = rest[-1]
    if len(rest) > 1:
        raise SpaceError(
            file,
            place.line,
            place.column,
            f"{shortened(name)!r} has a priority; sentences are read left to right by their keywords: remove it",
        )
    assert isinstance(expansions, lark.Tree)
    branches = expansions.children if expansions.data == "expansions" else [expansions]
    alternatives = tuple(_alternative(file, branch, place, is_terminal) for branch in branches)
    return Definition(name, is_terminal, place, max(a.last_line for a in alternatives), alternatives)


def _alternative(file: str, node: object, owner: Place, is_terminal: bool) -> Alternative:
    import lark

    assert isinstance(node, lark.Tree)
    alias: str | None = None
    last_line = owner.line if node.meta.empty else node.meta.end_line
    place = _place(node, owner)
    if node.data == "alias":
        body, token = node.children
        alias, last_line = str(token), getattr(token, "line", last_line) or last_line
        if node.meta.empty:
            place = Place(last_line, getattr(token, "column", 1) or 1)
        if not _ALIAS.fullmatch(alias) or is_terminal:
            message = f"alias {shortened(alias)!r}: " + (
                "a terminal has no aliases" if is_terminal else "an alias begins with a letter, a to z"
            )
            raise SpaceError(file, place.line, place.column, message)
        assert isinstance(body, lark.Tree)
        node = body
    parts = node.children if node.data == "expansion" else [node]
    if not parts:
        message = 'an empty alternative: give it a keyword, such as "none", so that a text shows the choice'
        raise SpaceError(file, place.line, place.column, message)
    if len(parts) > MOST_ITEMS:
        raise SpaceError(
            file,
            place.line,
            place.column,
            f"an alternative of {len(parts)} symbols; at most {MOST_ITEMS} are taken: use more rules",
        )
    return Alternative(tuple(_item(file, part, place) for part in parts), alias, place, last_line)


def _item(file: str, node: object, near: Place) -> Item:
    import lark

    assert isinstance(node, lark.Tree)
    place = _place(node, near)
    if node.data == "name":
        token = node.children[0]
        assert isinstance(token, lark.Token)
        return Item("rule" if token.type == "RULE" else "terminal", str(token), place)
    if node.data == "literal":
        token = node.children[0]
        assert isinstance(token, lark.Token)
        if token.type == "REGEXP":
            return Item("regex", str(token), place)
        return Item("literal", _unquoted(file, str(token), place), place)
    if node.data == "expr" and len(node.children) == 2 and str(node.children[1]) == "+":
        inner = _item(file, node.children[0], place)
        if inner.kind == "rule" and not inner.repeated:
            return Item("rule", inner.text, place, repeated=True)
    raise SpaceError(file, place.line, place.column, _refusal(node))


def _refusal(node: lark.Tree[lark.Token]) -> str:
    if node.data == "maybe":
        return "`[ … ]` is not read: write one alternative with it and one without, each with its keyword and alias"
    if node.data == "expr":
        words = [str(child) for child in node.children[1:]]
        mark = words[0] if words[0] in "?*+" else "~" + "..".join(words)
        return (
            f'the repetition `{shortened(mark, 20)}` is not read: write a rule such as `list: "(" item '
            'list ")" -> more | "end" -> end`'
        )
    if node.data == "template_usage":
        return "templates are not read: write one rule for each use"
    if node.data == "literal_range":
        return 'a range of characters is not read: write the values out, "a" | "b" | "c"'
    return "an alternative inside an alternative is not read: give it a rule of its own"


def _unquoted(file: str, token: str, place: Place) -> str:
    if token.endswith("i"):
        raise SpaceError(
            file,
            place.line,
            place.column,
            f'{shortened(token)} ignores letter case; texts are exact: remove the "i"',
        )
    body = token[1:-1]
    if re.search(r'\\(?![\\"])', body):
        raise SpaceError(
            file, place.line, place.column, f'{shortened(token)} has an escape; only \\" and \\\\ are taken'
        )
    value = re.sub(r"\\(.)", r"\1", body)
    if not value or value != value.strip() or not value.isprintable():
        message = (
            f"the literal {shortened(token)} is empty, not printable, or has white space at an end; "
            "sentences could not be read back"
        )
        raise SpaceError(file, place.line, place.column, message)
    return value
