"""What the columns of a table mean, by their names or as the user says; and the names of the classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from archrank.grammar import nearest
from archrank.supernet.data.errors import DataError

__all__ = ["Roles", "find_roles", "label_names"]

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
    if given:
        roles = Roles(**given)
    else:
        roles = _by_name(rows, there)
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


def _by_name(rows: Any, there: list[str]) -> Roles:
    label = next((c for c in LABELS if c in there), None)
    image = next((c for c in there if type(rows.features[c]).__name__ == "Image"), None)
    if image:
        return Roles(image=image, label=label)
    if "messages" in there:
        return Roles(messages="messages")
    if "prompt" in there and "completion" in there:
        return Roles(prompt="prompt", completion="completion")
    for first, second in PAIRS:
        if first in there and second in there:
            return Roles(text=first, text_pair=second, label=label)
    text = next((c for c in TEXTS if c in there), None)
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
    """The classes of the training rows in index order, as text; DataError for a class that only validation rows have.

    A ClassLabel keeps its names; numbers are sorted as numbers, words as words.
    """
    feature = splits["train"].features[roles.label]
    if type(feature).__name__ == "ClassLabel":
        return tuple(feature.names)
    values = {split: set(splits[split].unique(roles.label)) for split in ("train", "validation")}
    kinds = {type(v).__name__ for v in values["train"] | values["validation"]}
    if "NoneType" in kinds or "float" in kinds:
        raise DataError(
            f"--data {name}: the label column {roles.label!r} holds "
            f"{'empty cells' if 'NoneType' in kinds else 'fractions'}; classes are words or whole numbers"
        )
    if len(kinds) > 1:
        raise DataError(
            f"--data {name}: the label column {roles.label!r} mixes {' and '.join(sorted(kinds))}; use one kind"
        )
    alone = sorted(values["validation"] - values["train"], key=str)
    if alone:
        raise DataError(
            f"--data {name}: label {alone[0]!r} stands in the validation rows only; no training "
            f"row shows it (training labels: {_some(values['train'])})"
        )
    return tuple(str(v) for v in sorted(values["train"]))


def _some(values: set[Any]) -> str:
    shown = [str(v) for v in sorted(values)][:8]
    return ", ".join(shown) + (", …" if len(values) > 8 else "")
