"""Where rows come from: built-in sets, local files and folders, the hub; all but the first through the `datasets`
library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archrank.grammar import nearest
from archrank.supernet.data import digit_sums, digits
from archrank.supernet.data.errors import DataError
from archrank.supernet.data.roles import Roles, find_roles, label_names, unlabelled
from archrank.supernet.quiet import quiet_datasets

__all__ = ["BUILT_IN", "RawData", "read_dataset"]

BUILT_IN = {
    "digits": "scikit-learn's 8 × 8 digits",
    "digits-rotated": "the same turned by 90°: what the embedded base is adapted to",
    "digit-sums": "three digits in three channels, labelled by their sum (AddNIST at 8 × 8)",
}
READERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
SPLITS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
VALIDATION_PERCENT = 15


@dataclass(frozen=True)
class RawData:
    """Rows before any model has seen them.

    splits: {"train" | "validation" | "test": rows}, rows a `datasets.Dataset` or a dict of arrays; label_names: the
    classes of the training rows in index order, () for a language model; fingerprint: sha256 over the files' bytes.
    """

    name: str
    task: str
    splits: Mapping[str, Any] = field(repr=False)
    roles: Roles
    label_names: tuple[str, ...]
    fingerprint: str


def read_dataset(data: str | None, task: str | None = None, columns: Mapping[str, str] | None = None) -> RawData:
    """Reads a data set and finds what its columns mean.

    data: a built-in name, a csv, tsv, json(l) or parquet file, a folder with train, validation and test files or with
    a folder of pictures a class, or a hub name; None is the embedded default. columns: {role: column} where names do
    not say it. A set without validation rows gives up 15 % of its training rows, chosen by a hash of each row's
    content, so that no seed and no order changes them. A test split whose labels are withheld counts as none.
    """
    name = data or "digits-rotated"
    if name in BUILT_IN:
        arrays, digest = digit_sums.load() if name == "digit-sums" else digits.load(name)
        classes = digit_sums.CLASSES if name == "digit-sums" else 10
        if task not in (None, "image-classification"):
            raise DataError(f"--data {name} --task {task}: these are pictures; use image-classification")
        return RawData(
            name,
            "image-classification",
            arrays,
            Roles(image="image", label="label"),
            tuple(str(i) for i in range(classes)),
            digest,
        )
    path = Path(name)
    found, digest = (_local(path), _digest(path)) if path.exists() else (_hub(name), "")
    if "train" not in found:
        raise DataError(f"--data {name}: no training rows; splits found: {', '.join(found) or 'none'}")
    for split, rows in found.items():
        if len(rows) == 0:
            raise DataError(f"--data {name}: the {split} split is empty")
    roles = find_roles(name, found["train"], task, columns or {})
    for split in found:
        roles.check(name, split, found[split])
    if roles.label and "test" in found and unlabelled(found["test"], roles.label):
        del found["test"]
    labels = label_names(name, found, roles) if roles.label else ()
    if "validation" not in found:
        found |= _hash_split(name, found["train"], roles.label)
    digest = digest or hashlib.sha256("".join(str(rows._fingerprint) for rows in found.values()).encode()).hexdigest()
    return RawData(name, roles.task, found, roles, labels, digest)


def _local(path: Path) -> dict[str, Any]:
    if path.is_file():
        return {"train": _read_files(path.name, {"train": [path]})["train"]}
    files: dict[str, list[Path]] = {}
    for split, names in SPLITS.items():
        got = [
            p for p in sorted(path.iterdir()) if p.is_file() and p.stem.lower() in names and p.suffix.lower() in READERS
        ]
        if len(got) > 1:
            raise DataError(f"--data {path}: {' and '.join(p.name for p in got)} are both {split} rows; keep one")
        if got:
            files[split] = got
    if files:
        return _read_files(str(path), files)
    if any(p.suffix.lower() in PICTURES for p in path.rglob("*")):
        return _pictures(path)
    seen = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
    raise DataError(
        f"--data {path}: neither train.csv, .tsv, .json, .jsonl or .parquet nor "
        f"a folder of pictures a class; it holds {seen}"
    )


def _read_files(name: str, files: Mapping[str, list[Path]]) -> dict[str, Any]:
    import datasets

    kinds = {p.suffix.lower() for paths in files.values() for p in paths}
    unknown = kinds - set(READERS)
    if unknown:
        raise DataError(
            f"--data {name}: "
            f"{', '.join(sorted(unknown)) or 'a file without an ending'} cannot be read; use {', '.join(READERS)}"
        )
    if len({READERS[k] for k in kinds}) > 1 or len(kinds & {".csv", ".tsv"}) > 1:
        raise DataError(f"--data {name}: its splits have several formats ({', '.join(sorted(kinds))}); use one")
    [kind] = kinds
    # empty text is text: without keep_default_na a review that says "NA" becomes nothing
    options: dict[str, Any] = (
        {"sep": "\t" if kind == ".tsv" else ",", "keep_default_na": False} if READERS[kind] == "csv" else {}
    )
    found = {}
    for (
        split,
        paths,
    ) in files.items():  # one call a split: read together, a column that one of them lacks would be filled with nothing
        with quiet_datasets():
            try:
                found[split] = datasets.load_dataset(
                    READERS[kind], data_files=[str(p) for p in paths], split="train", **options
                )
            except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
                if "corresponds to no data" in str(error):
                    raise DataError(f"--data {name}: the {split} split is empty") from None
                told = str(error.__cause__ or error).strip().splitlines()[0]
                raise DataError(f"--data {name}: {paths[0].name} cannot be read as {READERS[kind]}: {told}") from None
    return found


def _pictures(path: Path) -> dict[str, Any]:
    import datasets

    with quiet_datasets():
        try:
            loaded = dict(datasets.load_dataset("imagefolder", data_dir=str(path)))
        except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
            raise DataError(
                f"--data {path}: cannot be read as a folder of pictures a class: {str(error).splitlines()[0]}"
            ) from None
    if "label" not in loaded["train"].column_names:
        raise DataError(f"--data {path}: the pictures lie in no folders; put each class in a folder of its name")
    return loaded


def _hub(name: str) -> dict[str, Any]:
    import datasets

    if name.startswith((".", "/", "~")) or Path(name).suffix.lower() in READERS:
        raise DataError(f"--data {name}: no such file or folder")
    with quiet_datasets():
        try:
            loaded = dict(datasets.load_dataset(name))
        except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
            near = nearest(name, list(BUILT_IN))
            hint = f"did you mean {near[0]}? " if near else ""
            raise DataError(
                f"--data {name}: no such file, folder or built-in name "
                f"({', '.join(BUILT_IN)}), and no hub data set of that name could be read; "
                f"{hint}{str(error).strip().splitlines()[0]}"
            ) from None
    return {split: loaded[n] for split, names in SPLITS.items() for n in names if n in loaded}


def _hash_split(name: str, rows: Any, label: str | None) -> dict[str, Any]:
    """{train, validation}: a row is validation when the hash of its content falls into the share; a class of which
    training would keep no row stays with training.
    """
    labels = rows[label] if label else [None] * len(rows)
    falls = [_bucket(row) < VALIDATION_PERCENT for row in rows]
    trained = {labels[i] for i, held_out in enumerate(falls) if not held_out}
    held = [i for i, held_out in enumerate(falls) if held_out and labels[i] in trained]
    kept = sorted(set(range(len(rows))) - set(held))
    if not held or not kept:
        raise DataError(
            f"--data {name}: {len(rows)} rows are too few to set validation rows aside; give a validation file"
        )
    return {"train": rows.select(kept), "validation": rows.select(held)}


def _bucket(row: Mapping[str, Any]) -> int:
    digest = hashlib.sha256(json.dumps(row, sort_keys=True, default=_plain).encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100


def _plain(value: Any) -> str:
    """Pixels or bytes as hex; dates and the like as they are written."""
    if isinstance(value, bytes):
        return value.hex()
    return value.tobytes().hex() if hasattr(value, "tobytes") else str(value)


def _digest(path: Path) -> str:
    """sha256 over the bytes of a file, or of a folder's files in the order of their names."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
