"""Texts as tokens: whole rows for classification; for language models the loss falls on what the model is to say, and
on nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archrank.supernet.data.errors import DataError
from archrank.supernet.data.source import RawData
from archrank.supernet.tasks import IGNORED

__all__ = ["Tokens", "classification_tokens", "language_tokens"]


@dataclass(frozen=True)
class Row:
    """Token ids, one label or one for each token, and which of a pair's texts a token belongs to where the tokenizer
    says so.
    """

    ids: list[int]
    labels: int | list[int]
    types: list[int] | None = None


@dataclass(frozen=True)
class Tokens:
    """A split of texts; a batch is padded to its longest row."""

    rows: Sequence[Row]
    pad: int

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, index: Sequence[int] | NDArray[np.int64]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` `(n, tokens)`, `labels` `(n,)` or `(n, tokens)`."""
        rows = [self.rows[int(i)] for i in index]
        width = max(len(r.ids) for r in rows)
        ids = torch.full((len(rows), width), self.pad)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, r in enumerate(rows):
            ids[i, : len(r.ids)] = torch.tensor(r.ids)
            mask[i, : len(r.ids)] = 1
        if isinstance(rows[0].labels, int):
            labels = torch.tensor([r.labels for r in rows])
        else:
            labels = torch.full((len(rows), width), IGNORED)
            for i, r in enumerate(rows):
                labels[i, : len(r.ids)] = torch.tensor(r.labels)
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        if rows[0].types is not None:
            types = torch.zeros_like(ids)
            for i, r in enumerate(rows):
                types[i, : len(r.ids)] = torch.tensor(r.types)
            batch["token_type_ids"] = types
        return batch


def classification_tokens(
    raw: RawData, split: str, tokenizer: Any, max_length: int, labels: Sequence[int]
) -> list[Row]:
    """Each text (or pair) as the tokenizer writes it, cut at `max_length`."""
    rows = raw.splits[split]
    texts = [_text(raw, split, t) for t in rows[raw.roles.text]]
    pairs = [_text(raw, split, t) for t in rows[raw.roles.text_pair]] if raw.roles.text_pair else None
    encoded = tokenizer(texts, pairs, truncation=True, max_length=max_length)
    types = encoded.get("token_type_ids") or [None] * len(texts)
    return [Row(list(i), label, t and list(t)) for i, t, label in zip(encoded["input_ids"], types, labels, strict=True)]


def language_tokens(raw: RawData, split: str, tokenizer: Any, max_length: int) -> list[Row]:
    """Prompt and completion, a chat, or plain text; a row that is too long loses the beginning of its prompt."""
    rows = list(_language_rows(raw, split, tokenizer))
    cut = [_cut(r, max_length) for r in rows]
    for i, r in enumerate(cut):
        assert isinstance(r.labels, list)
        if all(label == IGNORED for label in r.labels[1:]):
            raise DataError(
                f"--data {raw.name}: row {i + 1} of {split} has nothing to predict: "
                f"{'no assistant turn' if raw.roles.messages else 'no text'} within {max_length} tokens"
            )
    return cut


def _language_rows(raw: RawData, split: str, tokenizer: Any) -> Iterator[Row]:
    roles = raw.roles
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    if roles.prompt and roles.completion:
        prompts, completions = _filled(raw, split, roles.prompt), _filled(raw, split, roles.completion)
        for prompt, completion in zip(prompts, completions, strict=True):
            # tokenised apart, so that the border between what is given and what is learnt is exact
            given = list(tokenizer(_text(raw, split, prompt))["input_ids"])
            if given and end and given[-1] == end[0]:
                given.pop()
            said = list(tokenizer(_text(raw, split, completion), add_special_tokens=False)["input_ids"]) + end
            yield Row([*given, *said], [IGNORED] * len(given) + said)
    elif roles.messages:
        for messages in _filled(raw, split, roles.messages):
            yield _chat(raw, messages, tokenizer)
    else:
        for text in _filled(raw, split, roles.text or ""):
            ids = list(tokenizer(_text(raw, split, text))["input_ids"])
            ids = ids if not end or (ids and ids[-1] == end[0]) else ids + end
            yield Row(ids, list(ids))


def _filled(raw: RawData, split: str, column: str) -> Iterator[Any]:
    """A column's cells; DataError for a row without one: a JSON line that lacks a key is read as nothing."""
    for i, value in enumerate(raw.splits[split][column]):
        if value is None:
            raise DataError(f"--data {raw.name}: row {i + 1} of {split} has no {column!r}")
        yield value


def _chat(raw: RawData, messages: list[dict[str, str]], tokenizer: Any) -> Row:
    """A chat through the tokenizer's own template; loss on the assistant's turns, found as what each turn adds to the
    one before.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"--data {raw.name}: has messages, but the base's tokenizer has no "
            "chat template; use prompt and completion columns"
        )
    ids: list[int] = []
    labels: list[int] = []
    for i, message in enumerate(messages):
        before = len(ids)
        if message["role"] == "assistant":
            opened = _templated(tokenizer, messages[:i], add_generation_prompt=True)
            if opened[: len(ids)] == ids:
                before = len(opened)
        now = _templated(tokenizer, messages[: i + 1], add_generation_prompt=False)
        if now[: len(ids)] != ids:
            raise DataError(
                f"--data {raw.name}: the tokenizer's chat template rewrites earlier turns, so "
                "turns cannot be told apart; use prompt and completion"
            )
        said = message["role"] == "assistant"
        labels += [IGNORED] * (before - len(ids)) + [t if said else IGNORED for t in now[before:]]
        ids = now
    return Row(ids, labels)


def _templated(tokenizer: Any, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _cut(row: Row, most: int) -> Row:
    assert isinstance(row.labels, list)
    return row if len(row.ids) <= most else Row(row.ids[-most:], row.labels[-most:])


def _text(raw: RawData, split: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(
            f"--data {raw.name}: the {split} rows hold {type(value).__name__} where a text is meant: {value!r:.40}"
        )
    return value
