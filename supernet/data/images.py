"""Images for networks of a space's own input shape: no base, no processor."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from archrank.grammar.signatures import shown
from archrank.supernet.base import Base
from archrank.supernet.data.encode import TaskData, prepare
from archrank.supernet.data.errors import DataError
from archrank.supernet.data.source import RawData

__all__ = ["image_shape", "prepare_images"]


@dataclass(frozen=True)
class _ImageSize:
    """What reading a picture needs to know of a model: channels, (height, width)."""

    num_channels: int
    image_size: tuple[int, int]
    label2id: dict[str, int] = field(default_factory=dict)


def image_shape(raw: RawData, wanted: tuple[int, ...] | None, default: tuple[int, ...] | None) -> tuple[int, int, int]:
    """(channels, height, width) of a data set's images: of arrays their own, of pictures `wanted` or else `default`.

    DataError where the task is not image-classification, or `wanted` is no image or not what the arrays have.
    """
    if raw.task != "image-classification":
        raise DataError(f"--data {raw.name} is for {raw.task}; networks are searched on image-classification data")
    rows = raw.splits["train"]
    if isinstance(rows, dict):
        own = tuple(int(n) for n in rows["image"].shape[1:])
        if wanted is not None and wanted != own:
            raise DataError(f"--input {shown(wanted)}: the images of {raw.name} are {shown(own)}; leave --input out")
        return own[0], own[1], own[2]
    shape = wanted or default or (3, 32, 32)
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DataError(f"--input {shown(shape)}: pictures are read as 1 or 3 channels x height x width")
    return shape[0], shape[1], shape[2]


def prepare_images(raw: RawData, shape: tuple[int, int, int]) -> TaskData:
    """Train and validation rows as `pixel_values (n, *shape)` in [-1, 1]; pictures are resized."""
    blank = nn.Module()
    blank.config = _ImageSize(shape[0], (shape[1], shape[2]))  # type: ignore[assignment]
    base = Base(blank, None, raw.task, (), "", "", False)
    return prepare(raw, base)
