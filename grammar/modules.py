"""Which modules of a base a `target_modules` text names: PEFT's meaning."""

from __future__ import annotations

import re
from collections.abc import Sequence

from archrank.grammar.errors import listed, shortened
from archrank.grammar.nearest import nearest

_PLAIN = re.compile(r"[\w.\-]+")
_LONGEST_PATTERN = 1000
_SYNONYMS = (
    ("query", "q_proj", "q_lin", "query_proj", "wq", "q"),
    ("key", "k_proj", "k_lin", "key_proj", "wk", "k"),
    ("value", "v_proj", "v_lin", "value_proj", "wv", "v"),
    ("query_key_value", "c_attn", "qkv_proj", "qkv", "in_proj"),
    ("out_proj", "o_proj", "out_lin", "wo", "o"),
    ("fc1", "c_fc", "up_proj", "lin1", "intermediate.dense", "dense_h_to_4h"),
    ("fc2", "c_proj", "down_proj", "lin2", "output.dense", "dense_4h_to_h"),
)
"""What families of models call the same layer."""
_MOST_REPEATS = 6


def match_modules(pattern: str, names: Sequence[str], all_linear: Sequence[str]) -> list[str]:
    """The names that `pattern` selects, in the order of `names`.

    `all-linear` gives `all_linear`; a comma list or a plain word gives the names that equal an entry or end
    in `.entry`; anything else is a regular expression for the full name (`re.fullmatch`), as PEFT reads it.
    Raises ValueError where nothing matches (near names are listed), or where the expression is malformed or
    could take exponential time.
    """
    text = pattern.strip()
    if text == "all-linear":
        if not all_linear:
            raise ValueError(
                "target_modules 'all-linear' matches nothing: the base has no Linear or Conv1D layer in its blocks"
            )
        return list(all_linear)
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if parts and all(_PLAIN.fullmatch(part) for part in parts):
        found = _by_suffix(parts, names)
    else:
        expression = _compiled(text)
        found = [name for name in names if expression.fullmatch(name)]
    if not found:
        raise ValueError(_nothing(text, names))
    return found


def _by_suffix(parts: list[str], names: Sequence[str]) -> list[str]:
    """Every entry has to match something: a misspelt one among good ones would go unnoticed."""
    for part in parts:
        if not any(name == part or name.endswith(f".{part}") for name in names):
            raise ValueError(_nothing(part, names))
    return [name for name in names if any(name == part or name.endswith(f".{part}") for part in parts)]


def _nothing(text: str, names: Sequence[str]) -> str:
    ends = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in names))
    near = nearest(text, ends) or nearest(text, names)
    hint = f"did you mean {' or '.join(near)}? " if near else _other_name(text, ends)
    return (
        f"target_modules {shortened(text)!r} matches no module; {hint}The modules end in: {listed(ends)}. "
        "Give all-linear, a comma list of such endings, or a regular expression for the full name"
    )


def _other_name(text: str, ends: Sequence[str]) -> str:
    """A hint for a name, perhaps misspelt, that other families of models use for something that this base has too."""
    for word in nearest(text, [word for group in _SYNONYMS for word in group if len(word) > 2]):
        here = [end for group in _SYNONYMS if word in group for end in ends if end in group]
        if here:
            asked = "" if word == text else f"did you mean {word}? "
            return f"{asked}This base calls it {' or '.join(here)}. "
    return ""


def _compiled(text: str) -> re.Pattern[str]:
    if not text or len(text) > _LONGEST_PATTERN:
        raise ValueError(f"target_modules: a pattern has 1 to {_LONGEST_PATTERN} characters, this one {len(text)}")
    reason = slow_reason(text)
    if reason:
        raise ValueError(
            f"target_modules {shortened(text)!r} could take exponential time: {reason}; write a simpler "
            "expression or a comma list"
        )
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"target_modules {shortened(text)!r} is not a regular expression: {error}") from None


def slow_reason(text: str) -> str:
    """Why backtracking could explode, or nothing: a repeated group that repeats or branches inside, or many
    open repeats.
    """
    opened: list[bool] = []
    repeats, bare, at = 0, _without_classes(text), 0
    while at < len(bare):
        mark = bare[at]
        if mark == "(":
            opened.append(False)
        elif mark == ")" and opened:
            inner = opened.pop()
            if inner and bare[at + 1 : at + 2] in ("*", "+", "{"):
                return "a repeated group holds a repetition or a choice"
            if opened:
                opened[-1] = opened[-1] or inner
        elif mark in "*+{|":
            repeats += mark in "*+{"
            opened[:] = [True] * len(opened)
        at += 1
    return f"{repeats} repetitions, at most {_MOST_REPEATS} are taken" if repeats > _MOST_REPEATS else ""


def _without_classes(text: str) -> str:
    return re.sub(r"\[\^?\]?[^\]]*\]", "c", re.sub(r"\\.", "e", text))
