"""A device written as the TOML file that `load` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from archrank.predictors.device import Device
from archrank.predictors.profile import SECTIONS, DeviceError, Profile


def save(device: Device, path: str | Path) -> Path:
    """Writes a device, calibration included, to `path` (.toml); whole or not at all. Its constants of the learned layer
    are not written: `load` takes the shipped ones. `DeviceError` where the file cannot be written.
    """
    target = Path(path)
    if target.suffix != ".toml":
        raise DeviceError(f"{target}: a device is a .toml file: end the name with .toml")
    text = _toml(device.profile, None if device.calibration is None else device.calibration.to_table())
    part = target.with_name(f".{target.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(target)
    except OSError as error:
        raise DeviceError(f"{target}: cannot be written: {error.strerror}") from error
    return target


def _toml(profile: Profile, calibration: Mapping[str, object] | None) -> str:
    lines = ["schema = 1"]
    for key in ("name", "vendor", "architecture", "compute_capability", "kind", "stack", "prices"):
        lines.append(f"{key} = {_value(getattr(profile, key))}")
    lines += [f"aliases = {_value(list(profile.aliases))}", f"unconfirmed = {_value(list(profile.unconfirmed))}"]
    tables: list[tuple[str, Mapping[str, object]]] = [(section, getattr(profile, section)) for section in SECTIONS]
    tables.append(("sources", profile.sources))
    if calibration is not None:
        tables.append(("calibration", calibration))
    for section, table in tables:
        lines += ["", f"[{section}]", *(f"{key} = {_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    """Texts, numbers and lists are written in TOML as in JSON."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
