"""Calibration of a device from sentences and their measured latencies: the CSV, the networks, the fit, the kit."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from archrank.grammar import Space
from archrank.grammar.workload import Workload
from archrank.predictors import Device, DeviceError
from archrank.predictors.choosing import cross_validated

__all__ = ["CalibrationError", "Fit", "Measured", "fitted", "read", "workload_of", "write"]

COLUMNS = ("text", "latency_ms")


class CalibrationError(ValueError):
    """A table of measured networks that cannot be used."""


@dataclass(frozen=True)
class Measured:
    """Sentences and their measured ms, in the order of the file."""

    texts: tuple[str, ...]
    ms: tuple[float, ...]


@dataclass(frozen=True)
class Fit:
    """The calibrated device, and its error on networks left out (nan where only one was measured)."""

    device: Device
    mape: float
    spearman: float


def read(path: Path) -> Measured:
    """The rows of a CSV with the columns text, latency_ms (ms). CalibrationError with file and line."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (table.fieldnames or ())]
            if missing:
                given = ", ".join(table.fieldnames or ()) or "no header"
                raise CalibrationError(
                    f"{path}:1: no column {', '.join(missing)} (it has {given}): the header is {','.join(COLUMNS)}"
                )
            rows = [(str(row["text"]), _ms(path, table.line_num, row["latency_ms"])) for row in table]
    except OSError as error:
        raise CalibrationError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CalibrationError(f"{path}: not a text table in UTF-8 ({error.reason} at byte {error.start})") from error
    if not rows:
        raise CalibrationError(f"{path}: no row below the header: give at least one measured network")
    return Measured(tuple(text for text, _ in rows), tuple(ms for _, ms in rows))


def _ms(path: Path, line: int, text: str | None) -> float:
    try:
        ms = float(text or "")
    except ValueError:
        ms = float("nan")
    if not 0 < ms < float("inf"):
        raise CalibrationError(f"{path}:{line}: latency_ms = {text!r}, but it is a number of milliseconds above 0")
    return ms


def write(path: Path, texts: Sequence[str], ms: Sequence[float | None]) -> None:
    """The same file; a latency of None stays empty, to be filled in."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        table.writerows([text, "" if each is None else f"{each:.6g}"] for text, each in zip(texts, ms, strict=True))


def workload_of(space: Space, text: str, batch: int) -> Workload:
    """What one sentence runs at a batch. CalibrationError where sentences of the space are no architectures."""
    if not space.is_architecture_space:
        raise CalibrationError(
            f"{space.name}: its sentences are no architectures by themselves, so there is nothing to time: calibrate "
            "with a space that has //@ input"
        )
    return space.elaborate(space.parse(text)).workload(batch)


def fitted(device: Device, space: Space, measured: Measured, batch: int, dtype: str, where: str) -> Fit:
    """The device calibrated to the measured networks. CalibrationError names `where` they come from."""
    from archrank.grammar import SpaceError

    works = []
    for number, text in enumerate(measured.texts, start=1):
        try:
            works.append(workload_of(space, text, batch))
        except SpaceError as error:
            raise CalibrationError(f"{where}: network {number}, {text[:60]!r}: {error}") from error
    try:
        calibrated = device.calibrated(works, measured.ms, dtype)
        if len(works) < 2:
            return Fit(calibrated, float("nan"), float("nan"))
        return Fit(calibrated, *cross_validated(device, works, measured.ms, dtype))
    except DeviceError as error:
        raise CalibrationError(f"{where}: {error}") from error
