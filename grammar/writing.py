"""A grammar back as the text of a space file, with other probabilities: what `cross_entropy` learned."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from archrank.grammar.model import Grammar, Production

__all__ = ["written"]


def written(grammar: Grammar, p: Sequence[float], bounds: Mapping[str, float], input: Sequence[int] | None) -> str:
    """The file: settings, then each rule with an alternative a line. `p` are the productions' probabilities.

    A terminal of one value stands where it was used; comments of the original are not kept.
    """
    lines = _settings(grammar, bounds, input)
    for head, name in enumerate(grammar.names):
        if head == grammar.bound:
            assert grammar.bound_regex is not None
            lines.append(f"{name}: /{grammar.bound_regex.pattern.replace('/', chr(92) + '/')}/  //@ bound")
            continue
        ways = [grammar.productions[i] for i in grammar.by_head[head]]
        for k, (way, index) in enumerate(zip(ways, grammar.by_head[head], strict=True)):
            begin = f"{name}: " if k == 0 else "    | "
            lines.append(begin + _alternative(grammar, way) + _notes(grammar, way, p[index], len(ways)))
    if grammar.ignore is not None:
        # the reader repeats the file's patterns: `(?:…)+`
        inner = grammar.ignore.pattern.removeprefix("(?:").removesuffix(")+")
        lines.append(f"%ignore /{inner.replace('/', chr(92) + '/')}/")
    return "\n".join(lines) + "\n"


def _settings(grammar: Grammar, bounds: Mapping[str, float], input: Sequence[int] | None) -> list[str]:
    lines = ["// probabilities learned from the best trials of a search (cross_entropy)"]
    settings = grammar.settings
    if settings.target_modules is not None:
        lines.append(f'//@ target_modules = "{settings.target_modules}"')
    if input is not None:
        lines.append(f"//@ input = {'x'.join(map(str, input))}")
    lines += [f"//@ max {name} = {value:.0f}" for name, value in bounds.items()]
    if settings.uniform_size:
        lines.append("//@ prior size = uniform")
    return lines


def _alternative(grammar: Grammar, way: Production) -> str:
    words = [item if isinstance(item, str) else grammar.names[item] for item in way.items]
    shown = [
        json.dumps(word, ensure_ascii=False) if isinstance(item, str) else word
        for word, item in zip(words, way.items, strict=True)
    ]
    repeated = grammar.site is not None and way.children == (grammar.site,) and way.head == grammar.start
    text = " ".join(shown) + ("+" if repeated else "")
    return text + (f" -> {way.alias}" if way.alias is not None else "")


def _notes(grammar: Grammar, way: Production, p: float, ways: int) -> str:
    notes = [f"p = {p:.10g}"] if ways > 1 else []
    for child, count in zip(way.children, way.copies, strict=True):
        if count != 1:
            notes.append(f"copies({grammar.names[child]}) = {count}")
    if grammar.site is not None and way.head == grammar.start:
        notes.append("each = target_modules")
    return f"  //@ {', '.join(notes)}" if notes else ""
