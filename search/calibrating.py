"""Calibration of a device from sentences and their measured latencies: the CSV, the fit."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from archrank.predictors import Device, DeviceError
from archrank.predictors.choosing import cross_validated
from archrank.search.servable import Servable

__all__ = ["CalibrationError", "Fit", "Measured", "fitted", "read"]

COLUMNS = ("text", "latency_ms")


class CalibrationError(ValueError):
    """A table of measured networks that cannot be used."""


@dataclass(frozen=True)
class Measured:
    """Sentences and their measured ms, in the order of the file; the batch and dtype that the file says they were
    measured at, where it does.
    """

    texts: tuple[str, ...]
    ms: tuple[float, ...]
    batch: int | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Fit:
    """The calibrated device, and its error on networks left out (nan where only one was measured)."""

    device: Device
    mape: float
    spearman: float


def read(path: Path) -> Measured:
    """The rows of a CSV with the columns text, latency_ms (ms), and batch, dtype where there are such: those of a kit's
    measure.py. CalibrationError with file and line.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (table.fieldnames or ())]
            if missing:
                given = ", ".join(table.fieldnames or ()) or "no header"
                raise CalibrationError(
                    f"{path}:1: no column {', '.join(missing)} (it has {given}): the header is {','.join(COLUMNS)}"
                )
            rows = [(str(row["text"]), _ms(path, table.line_num, row["latency_ms"]), row) for row in table]
    except OSError as error:
        raise CalibrationError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CalibrationError(f"{path}: not a text table in UTF-8 ({error.reason} at byte {error.start})") from error
    if not rows:
        raise CalibrationError(f"{path}: no row below the header: give at least one measured network")
    batch, dtype = (_one(path, [row.get(column) for _, _, row in rows], column) for column in ("batch", "dtype"))
    if batch is not None and not (batch.isdecimal() and int(batch)):
        raise CalibrationError(f"{path}: batch = {batch!r}, but it is a whole number of at least 1")
    return Measured(tuple(r[0] for r in rows), tuple(r[1] for r in rows), int(batch) if batch else None, dtype)


def _one(path: Path, values: Sequence[str | None], column: str) -> str | None:
    """The one value of a column that has to be the same in all rows; None where there is no such column."""
    found = sorted({value for value in values if value})
    if len(found) > 1:
        raise CalibrationError(
            f"{path}: {column} is {' and '.join(found)} in different rows: fit one of them at a time"
        )
    return found[0] if found else None


def _ms(path: Path, line: int, text: str | None) -> float:
    try:
        ms = float(text or "")
    except ValueError:
        ms = float("nan")
    if not 0 < ms < float("inf"):
        raise CalibrationError(f"{path}:{line}: latency_ms = {text!r}, but it is a number of milliseconds above 0")
    return ms


def fitted(device: Device, served: Servable, measured: Measured, dtype: str, where: str) -> Fit:
    """The device calibrated to the measured networks. CalibrationError names `where` they come from."""
    from archrank.grammar import SpaceError

    works = []
    for number, text in enumerate(measured.texts, start=1):
        try:
            works.append(served.workload(text))
        except SpaceError as error:
            raise CalibrationError(f"{where}: network {number}, {text[:60]!r}: {error}") from error
    try:
        calibrated = device.calibrated(works, measured.ms, dtype)
        if len(works) < 2:
            return Fit(calibrated, float("nan"), float("nan"))
        return Fit(calibrated, *cross_validated(device, works, measured.ms, dtype))
    except DeviceError as error:
        raise CalibrationError(f"{where}: {error}") from error
