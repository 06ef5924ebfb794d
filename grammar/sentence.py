"""Text to choices and back: an LL(1) reader and the writer that inverts it. Neither recurses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from archrank.grammar.analysis import Facts, expected_text, is_word
from archrank.grammar.errors import SpaceError, shortened
from archrank.grammar.model import Grammar
from archrank.grammar.nearest import did_you_mean

LONGEST_SENTENCE = 4_000_000
_APART = 3
_WORD = re.compile(r"[\w.]+")


@dataclass(frozen=True)
class Reading:
    """Productions in preorder, the text offset at which each begins, what bound terminals matched, and
    where the text went on.
    """

    choices: tuple[int, ...]
    places: tuple[int, ...]
    names: tuple[tuple[str, int], ...]
    end: int


class Sentences:
    """Reads and writes the sentences of one grammar."""

    def __init__(self, grammar: Grammar, facts: Facts) -> None:
        self.grammar, self.facts = grammar, facts
        self._items = tuple(tuple(reversed(production.items)) for production in grammar.productions)
        texts = {item for production in grammar.productions for item in production.items if isinstance(item, str)}
        self._edges = {text: (_APART if text in grammar.apart else _kind(text[0]), _kind(text[-1])) for text in texts}
        self._written = tuple(self._merged(production.items) for production in grammar.productions)

    def _merged(self, items: Sequence[int | str]) -> tuple[tuple[int, str, int, int], ...]:
        """The items in reverse as (nonterminal or -1, text, kind of its first and of its last sign), with texts that
        stand side by side written as one.
        """
        found: list[tuple[int, str, int, int]] = []
        for item in items:
            if isinstance(item, int):
                found.append((item, "", 0, 0))
                continue
            left, right = self._edges[item]
            if found and found[-1][0] < 0:
                _, text, first, last = found.pop()
                space = " " if left and left == last and self.grammar.spaced else ""
                found.append((-1, f"{text}{space}{item}", first, right))
            else:
                found.append((-1, item, left, right))
        return tuple(reversed(found))

    @cached_property
    def _begins(self) -> tuple[re.Pattern[str] | None, ...]:
        """Per nonterminal the texts it can begin with, longest first; None where there is no choice."""
        return tuple(
            re.compile("|".join(re.escape(text) for text in sorted(first, key=len, reverse=True)))
            if len(productions) > 1
            else None
            for first, productions in zip(self.facts.first, self.grammar.by_head, strict=True)
        )

    def skip(self, text: str, at: int) -> int:
        """The offset of the next token."""
        if self.grammar.ignore is None:
            return at
        found = self.grammar.ignore.match(text, at)
        return at if found is None else found.end()

    def read(self, text: str, head: int, at: int = 0) -> Reading:
        """The derivation of nonterminal `head` at offset `at`; raises SpaceError at the token that does not
        fit.
        """
        grammar, begins, first, ignore = self.grammar, self._begins, self.facts.first, self.grammar.ignore
        choices: list[int] = []
        places: list[int] = []
        names: list[tuple[str, int]] = []
        stack: list[int | str] = [head]
        while stack:
            item = stack.pop()
            if ignore is not None and (blank := ignore.match(text, at)) is not None:
                at = blank.end()
            if isinstance(item, str):
                if not text.startswith(item, at):
                    raise self._unexpected(text, at, f'"{item}"', [item], choices, places)
                at += len(item)
                continue
            if item == grammar.bound:
                at = self._name(text, at, names)
                continue
            pattern = begins[item]
            if pattern is None:
                index = grammar.by_head[item][0]
            else:
                found = pattern.match(text, at)
                if found is None:
                    raise self._unexpected(text, at, self._allowed(item), list(first[item]), choices, places)
                index = first[item][found.group()]
            choices.append(index)
            places.append(at)
            stack.extend(self._items[index])
        return Reading(tuple(choices), tuple(places), tuple(names), at)

    def read_whole(self, text: str) -> tuple[int, ...]:
        """The productions of a complete sentence."""
        check_sentence(text)
        reading = self.read(text, self.grammar.start)
        at = self.skip(text, reading.end)
        if at != len(text):
            raise self._unexpected(text, at, "the end of the sentence", [])
        return reading.choices

    def _name(self, text: str, at: int, names: list[tuple[str, int]]) -> int:
        regex, bound = self.grammar.bound_regex, self.grammar.bound
        assert regex is not None
        assert bound is not None
        found = regex.match(text, at)
        if found is None or found.end() == at:
            raise self._unexpected(text, at, f"a {self.grammar.names[bound]}", [])
        names.append((found.group(), at))
        return found.end()

    def _allowed(self, head: int) -> str:
        said = expected_text(self.facts.first[head])
        return (
            f"one of {self.grammar.names[head]}: {said}"
            if self.grammar.terminal[head]
            else f"{self.grammar.names[head]}: {said}"
        )

    def _unexpected(
        self,
        text: str,
        at: int,
        wanted: str,
        texts: list[str],
        choices: Sequence[int] = (),
        places: Sequence[int] = (),
    ) -> SpaceError:
        """The error at the beginning of the word that `at` lies in: `48` where only `4` fits is one wrong
        word.
        """
        failed = at
        while 0 < at < len(text) and is_word(text[at]) and is_word(text[at - 1]):
            at -= 1
        if at < failed and places and at == places[-1]:
            head = self.grammar.productions[choices[-1]].head
            wanted, texts = self._allowed(head), list(self.facts.first[head])
        found = _WORD.match(text, at)
        said = repr(shortened(found.group() if found else text[at : at + 1], 40)) if at < len(text) else "the end"
        hint = did_you_mean(found.group(), texts).rstrip(".") if found else ""
        return sentence_error(text, at, f"found {said} where {shortened(wanted, 300)} is expected{hint}")

    def write(self, choices: Sequence[int], head: int | None = None, name: str = "") -> str:
        """The sentence of productions in preorder: a space only where two words would run together.

        `name` stands for the value of a bound terminal.
        """
        out: list[str] = []
        stack = [(self.grammar.start if head is None else head, "", 0, 0)]
        written, bound, spaced, last = self._written, self.grammar.bound, self.grammar.spaced, 0
        following = iter(choices)
        while stack:
            item, text, left, right = stack.pop()
            if item >= 0 and item != bound:
                stack.extend(written[next(following)])
                continue
            if item == bound:
                text, left, right = name, 1, 1
            if (left and left == last and spaced) or (left == _APART and out):
                out.append(" ")
            out.append(text)
            last = right
        return "".join(out)


def _kind(character: str) -> int:
    """0 for brackets and separators, which never join with a neighbour, 1 in a word, 2 for other signs."""
    return 1 if is_word(character) else 0 if character in "()[]{},;:" else 2


def check_sentence(text: str) -> None:
    """Raises TypeError where it is no text, SpaceError where it is too long to be one."""
    if not isinstance(text, str):
        raise TypeError(f"a sentence is a text, not {type(text).__name__}")
    if len(text) > LONGEST_SENTENCE:
        raise sentence_error(text, 0, f"a sentence of {len(text):,} characters; at most {LONGEST_SENTENCE:,} are read")


def sentence_error(text: str, at: int, message: str) -> SpaceError:
    """A SpaceError at an offset of a sentence."""
    return SpaceError("<sentence>", text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at), message)
