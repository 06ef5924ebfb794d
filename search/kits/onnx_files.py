"""A traced network as an ONNX file whose large weights lie in one file for all networks of a kit.

A time does not depend on what the weights are, so that every large float tensor points at the beginning of
`weights.FLOAT`, as long as the longest of them and random: twenty networks take the room of one tensor. Small tensors,
whole numbers and masks stand in the file as they are.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.export import ExportedProgram

from archrank.search.errors import ExportError

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["SharedWeights", "absent", "write"]

PACKAGES = ("onnx", "onnxscript")
LARGE_BYTES = 32_768
FLOATS = {"FLOAT": torch.float32, "FLOAT16": torch.float16, "BFLOAT16": torch.bfloat16}
SPREAD = 0.02
"""Standard deviation of the weights: activations of deep networks stay in range."""
PIECE = 1 << 22


def absent() -> list[str]:
    """The packages that writing ONNX needs and that are not installed."""
    return [name for name in PACKAGES if find_spec(name) is None]


class SharedWeights:
    """The weights' files of a kit; `finish` writes them once all networks are known."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bytes: dict[str, int] = {}

    def point(self, model: onnx_ir.Model) -> None:
        """Every large float tensor of the model lies in a shared file from now on."""
        import onnx_ir

        for value in model.graph.initializers.values():
            held = value.const_value
            if held is None or held.nbytes < LARGE_BYTES or held.dtype.name not in FLOATS:
                continue
            file = f"weights.{held.dtype.name.lower()}"
            self._bytes[file] = max(self._bytes.get(file, 0), held.nbytes)
            value.const_value = onnx_ir.ExternalTensor(
                file,
                0,
                held.nbytes,
                held.dtype,
                shape=onnx_ir.Shape(held.shape.numpy()),
                name=str(value.name),
                base_dir=self.folder,
            )

    def finish(self) -> None:
        """Random numbers of the length of the longest tensor, each dtype its file."""
        for file, length in self._bytes.items():
            dtype = FLOATS[file.partition(".")[2].upper()]
            generator, left = torch.Generator().manual_seed(0), length // dtype.itemsize
            with (self.folder / file).open("wb") as out:
                while left > 0:
                    piece = torch.randn(min(PIECE, left), generator=generator).mul_(SPREAD).to(dtype)
                    out.write(piece.view(torch.uint8).numpy().tobytes())
                    left -= len(piece)


def write(program: ExportedProgram, path: Path, weights: SharedWeights) -> None:
    """One file, shapes fixed; ExportError names what the exporter cannot write."""
    import onnx_ir

    with warnings.catch_warnings(), _silent():
        warnings.simplefilter("ignore")  # torch warns of its own internals here
        try:
            made = torch.onnx.export(program, dynamo=True, verbose=False)
        except (RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
            lines = str(error).strip().splitlines()
            raise ExportError(f"ONNX: {lines[0] if lines else type(error).__name__}") from None
    assert made is not None
    weights.point(made.model)
    onnx_ir.save(made.model, path)


@contextmanager
def _silent() -> Iterator[None]:
    """Without the exporter's notes on packages that are not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
