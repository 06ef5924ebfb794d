"""What the columns of a table mean, by their names or as the user says; and the names of the classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from archrank.grammar import nearest
from archrank.supernet.data.errors import DataError
from archrank.supernet.quiet import quiet_datasets

__all__ = ["Roles", "find_roles", "label_names", "unlabelled"]

LABELS = ("label", "labels", "class", "target", "category")
TEXTS = ("sentence", "text", "content", "review", "question", "query", "title")
PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("query", "passage"),
    ("question", "sentence"),
)
ROLES = ("text", "text_pair", "label", "image", "prompt", "completion", "messages")


@dataclass(frozen=True)
class Roles:
    """Column names by role; None where a table has no such column."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    image: str | None = None
    prompt: str | None = None
    completion: str | None = None
    messages: str | None = None

    @property
    def task(self) -> str:
        """The task that these columns make."""
        if self.image:
            return "image-classification"
        return "text-classification" if self.label else "causal-lm"

    def check(self, name: str, split: str, rows: Any) -> None:
        """DataError where a split lacks a column."""
        for column in (self.text, self.text_pair, self.label, self.image, self.prompt, self.completion, self.messages):
            if column is not None and column not in rows.column_names:
                raise _missing(name, split, column, rows.column_names)


def _missing(name: str, split: str, column: str, there: list[str]) -> DataError:
    near = nearest(column, there)
    hint = f"; did you mean {near[0]}?" if near else ""
    return DataError(f"--data {name}: the {split} rows have no column {column!r}; there are: {', '.join(there)}{hint}")


def find_roles(name: str, rows: Any, task: str | None, given: Mapping[str, str]) -> Roles:
    """Roles by the user's word, then by usual names, then by type; DataError lists the columns."""
    there = list(rows.column_names)
    for role, column in given.items():
        if role not in ROLES:
            near = nearest(role, list(ROLES))
            raise DataError(
                f"--columns {role}={column}: no role "
                f"{role!r}{f'; did you mean {near[0]}?' if near else ''}; roles: {', '.join(ROLES)}"
            )
        if column not in there:
            raise _missing(name, "train", column, there)
    roles = _with_given(given, _by_name(rows, [c for c in there if c not in given.values()]))
    if task is not None and roles.task != task:
        roles = _for_task(name, roles, task, rows, there)
    if not (roles.image or roles.text or roles.prompt or roles.messages):
        raise DataError(
            f"--data {name}: no text or picture column among {', '.join(there)}; name it: --columns text=COLUMN"
        )
    if (roles.prompt is None) != (roles.completion is None):
        raise DataError(
            f"--data {name}: a prompt needs a completion column and the other way round; there are: {', '.join(there)}"
        )
    if roles.task != "causal-lm" and roles.label is None:
        raise DataError(f"--data {name}: no label column among {', '.join(there)}; name it: --columns label=COLUMN")
    return roles


def _with_given(given: Mapping[str, str], usual: Roles) -> Roles:
    """The user's columns, and what a classifier needs beside them by its usual name."""
    if not given:
        return usual
    if {"prompt", "completion", "messages"} & given.keys():
        return Roles(**given)
    named = dict(given)
    if usual.label:
        named.setdefault("label", usual.label)
    if not {"text", "image"} & named.keys():
        others = {"text": usual.text, "text_pair": usual.text_pair, "image": usual.image}
        named = {**{role: column for role, column in others.items() if column}, **named}
    return Roles(**named)


def _by_name(rows: Any, there: list[str]) -> Roles:
    has = {c.lower(): c for c in reversed(there)}
    label = next((has[c] for c in LABELS if c in has), None)
    image = next((c for c in there if type(rows.features[c]).__name__ == "Image"), None)
    if image:
        return Roles(image=image, label=label)
    if "messages" in has:
        return Roles(messages=has["messages"])
    if "prompt" in has and "completion" in has:
        return Roles(prompt=has["prompt"], completion=has["completion"])
    for first, second in PAIRS:
        if first in has and second in has:
            return Roles(text=has[first], text_pair=has[second], label=label)
    text = next((has[c] for c in TEXTS if c in has), None)
    if text is None and label is None and ("prompt" in has or "completion" in has):
        return Roles(prompt=has.get("prompt"), completion=has.get("completion"))
    if text is None:
        strings = [
            c for c in there if c != label and getattr(rows.features[c], "dtype", "") in ("string", "large_string")
        ]
        text = strings[0] if len(strings) == 1 else None
    return Roles(text=text, label=label)


def _for_task(name: str, roles: Roles, task: str, rows: Any, there: list[str]) -> Roles:
    """The same columns under another task, where they allow it."""
    if task == "causal-lm" and roles.text and not roles.image:
        return Roles(text=roles.text)
    wants = {
        "text-classification": "a text and a label",
        "image-classification": "a picture and a label",
        "causal-lm": "prompt and completion, messages, or text",
    }
    raise DataError(
        f"--data {name} --task {task}: needs {wants[task]}; columns: "
        f"{', '.join(there)}. Name them: --columns ROLE=COLUMN"
    )


def label_names(name: str, splits: Mapping[str, Any], roles: Roles) -> tuple[str, ...]:
    """The classes of the training rows in index order, as text; DataError for a class that only other rows have.

    A ClassLabel keeps its names; numbers are sorted as numbers, words as words. Of the test rows no more is looked at
    than which labels there are: after hours of search would be late to say that one is unknown.
    """
    feature = splits["train"].features[roles.label]
    values = {split: _values(name, split, rows, roles) for split, rows in splits.items()}
    kinds = {type(v).__name__ for found in values.values() for v in found}
    if len(kinds) > 1:
        raise DataError(
            f"--data {name}: the label column {roles.label!r} mixes {' and '.join(sorted(kinds))}; use one kind"
        )
    for split, found in values.items():
        alone = sorted(found - values["train"])
        if alone:
            raise DataError(
                f"--data {name}: label {alone[0]!r} stands in the {split} rows only; no training "
                f"row shows it (training labels: {_some(values['train'])})"
            )
    if len(values["train"]) < 2:
        raise DataError(
            f"--data {name}: every training row has the label {_some(values['train'])}; classes are two or more"
        )
    if _is_class_label(feature):
        return tuple(feature.names)
    return tuple(str(v) for v in sorted(values["train"]))


def unlabelled(rows: Any, column: str) -> bool:
    """Whether a split's labels are all withheld, as the test rows of GLUE are: ClassLabel −1, or nothing."""
    feature = rows.features[column]
    return _plain(feature) and _unique(rows, column) <= ({-1, None} if _is_class_label(feature) else {"", None})


def _is_class_label(feature: Any) -> bool:
    return type(feature).__name__ == "ClassLabel"


def _plain(feature: Any) -> bool:
    return type(feature).__name__ in ("ClassLabel", "Value")


def _unique(rows: Any, column: str) -> set[Any]:
    with quiet_datasets():
        return set(rows.unique(column))


def _values(name: str, split: str, rows: Any, roles: Roles) -> set[Any]:
    column = str(roles.label)
    feature = rows.features[column]
    if not _plain(feature):
        raise DataError(
            f"--data {name}: the label column {column!r} holds lists or mixed kinds; "
            "a row has one class, a word or a whole number"
        )
    found = _unique(rows, column)
    if _is_class_label(feature):
        found = {None if v is None or v < 0 else feature.names[v] for v in found}
    if found & {None, ""}:
        raise DataError(f"--data {name}: the label column {column!r} holds empty cells in the {split} rows")
    if any(isinstance(v, float) for v in found):
        raise DataError(
            f"--data {name}: the label column {column!r} holds fractions; classes are words or whole numbers"
        )
    return found


def _some(values: set[Any]) -> str:
    shown = [str(v) for v in sorted(values)][:8]
    return ", ".join(shown) + (", …" if len(values) > 8 else "")
