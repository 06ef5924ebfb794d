"""A kit: a folder of networks, written as plain Python and as ONNX, with the script that times them elsewhere.

kit.json          space, batch, dtype, and for each network its name, sentence and inputs
NAME.py NAME.onnx the network; weights.FLOAT holds large weights of all ONNX files
measure.py        writes measured.csv, which `search calibrate --csv` reads
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from archrank.search.errors import ExportError
from archrank.search.kits import measure, onnx_files, source
from archrank.search.measuring import torch_dtype
from archrank.search.servable import Servable

__all__ = ["Kit", "KitError", "check_folder", "write"]

SCRIPT = "measure.py"


class KitError(ValueError):
    """A folder that cannot take a kit."""


@dataclass(frozen=True)
class Kit:
    """What was written: how many networks, and what was left out, a line each."""

    networks: int
    left_out: tuple[str, ...]


def check_folder(folder: Path) -> None:
    """KitError where the folder is a file or holds anything."""
    if folder.suffix in (".csv", ".toml") or folder.is_file():
        raise KitError(f"--export {folder}: is a file; give the name of a new folder, such as kit/")
    if folder.is_dir() and any(folder.iterdir()):
        raise KitError(f"--export {folder}: holds files already; give a new or empty folder")


def write(folder: Path, served: Servable, texts: Iterable[str], space: str, batch: int, dtype: str) -> Kit:
    """Writes the kit; what a form cannot hold is left out of it and told. ExportError where no network was written,
    KitError where the folder cannot be used.
    """
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _written(folder, served, texts, {"space": space, "batch": batch, "dtype": dtype})
    except OSError as error:
        raise KitError(f"--export {folder}: cannot be written: {error.strerror or error}") from error


def _written(folder: Path, served: Servable, texts: Iterable[str], head: dict[str, object]) -> Kit:
    missing = onnx_files.absent()
    left_out = [f"no ONNX files: {' and '.join(missing)} missing (pip install {' '.join(missing)})"] if missing else []
    weights, networks = onnx_files.SharedWeights(folder), []
    for number, text in enumerate(texts):
        name = f"network_{number:03d}"
        kind = torch_dtype(str(head["dtype"]))
        inputs = served.inputs(text, kind)
        try:
            program = source.exported(served.network(text, kind), list(inputs.values()))
            told = f"{head['space']} at batch {head['batch']} in {head['dtype']}: {_short(text)}"
            (folder / f"{name}.py").write_text(source.source(program, told), encoding="utf-8")
        except ExportError as error:
            left_out.append(f"{name}, {text[:60]!r}: {error}")
            continue
        if not missing:
            try:
                onnx_files.write(program, folder / f"{name}.onnx", weights)
            except ExportError as error:
                left_out.append(f"{name}.onnx: {error}")
        networks.append({"name": name, "text": text, "inputs": [_told(x) for x in inputs.values()]})
    if not networks:
        raise ExportError(f"{folder}: no network could be written: {left_out[-1]}")
    weights.finish()
    said = json.dumps({"schema": 1, **head, "networks": networks}, ensure_ascii=False, indent=1)
    (folder / "kit.json").write_text(said + "\n", encoding="utf-8")
    shutil.copyfile(Path(measure.__file__), folder / SCRIPT)
    return Kit(len(networks), tuple(left_out))


def _short(text: str) -> str:
    one = " ".join(text.split())
    return one if len(one) <= 80 else f"{one[:79]}…"


def _told(x: torch.Tensor) -> dict[str, object]:
    """An input as the script makes it: `fill` None is random."""
    fill = None if x.is_floating_point() else 0
    return {"shape": list(x.shape), "dtype": str(x.dtype).removeprefix("torch."), "fill": fill}
