"""Rows as tensors for one base, and the order in which training meets them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archrank.supernet.base import Base
from archrank.supernet.data.errors import DataError
from archrank.supernet.data.source import RawData
from archrank.supernet.data.texts import Tokens, classification_tokens, language_tokens

__all__ = ["TaskData", "order", "prepare"]

SPLITS = ("train", "validation", "test")


def order(seed: int, step: int, batch_size: int, rows: int) -> NDArray[np.int64]:
    """The rows of a step `(batch_size,)`: a stream of one permutation an epoch, each a function of (seed, epoch) alone.

    So a training is resumed from its step's number; a batch may span two epochs, and a data set smaller than a batch
    repeats within it.
    """
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = places // rows
    shuffled = {int(e): np.random.default_rng([seed, int(e)]).permutation(rows) for e in np.unique(epochs)}
    return np.asarray([shuffled[int(e)][p % rows] for e, p in zip(epochs, places, strict=True)], dtype=np.int64)


class Encoded(Protocol):
    """A split that gives batches."""

    def __len__(self) -> int:
        """Rows."""

    def batch(self, index: Sequence[int] | NDArray[np.int64]) -> dict[str, Tensor]:
        """The rows of `index` as the model's inputs, with labels."""


@dataclass
class TaskData:
    """Train and validation rows encoded for a base; the test rows are encoded when they are first asked for, which no
    selection does.

    Batches: `pixel_values (n, channels, height, width)`, or `input_ids (n, tokens)` with `attention_mask`; `labels
    (n,)`, or `(n, tokens)` for a language model with −100 where no loss is taken.
    """

    name: str
    task: str
    label_names: tuple[str, ...]
    fingerprint: str
    sizes: Mapping[str, int]
    encode: Callable[[str], Encoded] = field(repr=False)
    _splits: dict[str, Encoded] = field(default_factory=dict, repr=False)

    def size(self, split: str) -> int:
        """Rows of a split; 0 where there is none."""
        return self.sizes.get(split, 0)

    def batch(self, split: str, index: Sequence[int] | NDArray[np.int64]) -> dict[str, Tensor]:
        """The rows of `index`, padded to the longest of them."""
        if split not in self._splits:
            self._splits[split] = self.encode(split)
        return self._splits[split].batch(index)


def prepare(raw: RawData, base: Base, *, max_length: int = 128) -> TaskData:
    """Encodes train and validation rows; DataError for a row that cannot be encoded, a task the base is not for."""
    if raw.task != base.task:
        raise DataError(
            f"--data {raw.name} is for {raw.task}, the base was loaded for {base.task}; say which with --task"
        )
    places = _label_places(raw, base)

    def encode(split: str) -> Encoded:
        rows = raw.splits[split]
        if raw.task == "image-classification":
            if isinstance(rows, dict):
                _check_size(raw.name, rows["image"].shape[1:], base)
                return _Arrays(torch.from_numpy(rows["image"]), torch.from_numpy(rows["label"]))
            return _Pictures(f"{raw.name}: {split}", rows, raw.roles.image or "", _labels(raw, split, places), base)
        tokens = (
            language_tokens(raw, split, base.processor, max_length)
            if raw.task == "causal-lm"
            else classification_tokens(raw, split, base.processor, max_length, _labels(raw, split, places))
        )
        return Tokens(tokens, int(base.processor.pad_token_id or 0))

    sizes = {
        s: len(raw.splits[s]["label"] if isinstance(raw.splits[s], dict) else raw.splits[s])
        for s in SPLITS
        if s in raw.splits
    }
    data = TaskData(raw.name, raw.task, raw.label_names, raw.fingerprint, sizes, encode)
    for split in ("train", "validation"):
        data.batch(split, [0])
    return data


def _check_size(name: str, shape: Sequence[int], base: Base) -> None:
    """DataError where pictures in memory are not of the size that the base reads; files would be resized."""
    side, channels = (getattr(base.settings, key, None) for key in ("image_size", "num_channels"))
    size = (side, side) if isinstance(side, int) else tuple(side or ())
    wanted = (channels or shape[0], *(size or shape[1:]))
    if tuple(shape) != wanted:
        raise DataError(
            f"--data {name} pictures: are {'x'.join(map(str, shape))} (channels, height, width), and the base reads "
            f"{'x'.join(map(str, wanted))}; give the pictures as files, which are resized, or a base of their size"
        )


def _label_places(raw: RawData, base: Base) -> dict[str, int]:
    """{class name: index}; a base's own head keeps its own order where it knows the same names."""
    if not raw.label_names:
        return {}
    known = {str(name): int(i) for name, i in (base.settings.label2id or {}).items()}
    return known if set(known) == set(raw.label_names) else {name: i for i, name in enumerate(raw.label_names)}


def _labels(raw: RawData, split: str, places: Mapping[str, int]) -> list[int]:
    column = raw.splits[split][raw.roles.label]
    feature = raw.splits[split].features[raw.roles.label]
    names = [feature.names[v] for v in column] if type(feature).__name__ == "ClassLabel" else [str(v) for v in column]
    return [places[n] for n in names]


@dataclass(frozen=True)
class _Arrays:
    """Pictures already in memory as `(rows, channels, height, width)`."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Sequence[int] | NDArray[np.int64]) -> dict[str, Tensor]:
        at = torch.as_tensor(np.asarray(index))
        return {"pixel_values": self.images[at], "labels": self.labels[at]}


@dataclass(frozen=True)
class _Pictures:
    """Files decoded when they are asked for, through the base's image processor."""

    name: str
    rows: Any
    column: str
    labels: list[int]
    base: Base

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Sequence[int] | NDArray[np.int64]) -> dict[str, Tensor]:
        config = self.base.settings
        mode = "L" if config.num_channels == 1 else "RGB"
        try:
            pictures = [p.convert(mode) for p in self.rows[[int(i) for i in index]][self.column]]
        except OSError as error:  # Pillow's for what is no picture, or only a part of one
            raise DataError(f"--data {self.name} pictures: {error}") from None
        processor = self.base.processor
        if processor is not None:
            pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
        else:
            side = config.image_size
            size = (side, side) if isinstance(side, int) else (side[1], side[0])
            arrays = [
                np.asarray(p.resize(size), dtype=np.float32).reshape(size[1], size[0], -1) / 127.5 - 1 for p in pictures
            ]
            pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
        return {"pixel_values": pixels, "labels": torch.tensor([self.labels[int(i)] for i in index])}
