"""A device's figures, read from TOML and checked.

Units stand in the names, SI base units otherwise. Peaks are dense datasheet figures; `[compute_efficiency]`
and `[bandwidth_efficiency]` are the shares of them that kernels reach, `[launch]` what one kernel adds,
`[interval]` the factor by which 9 of 10 measured times are within a prediction; `low` stands for every dtype
but fp32; `[sources]` says for each section where its figures come from.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from archrank.grammar.workload import DTYPE_BYTES
from archrank.predictors import calibration
from archrank.predictors.calibration import Calibration

DTYPES = tuple(DTYPE_BYTES)
"""The dtypes a device may have a peak for."""

_SPEC = (
    "sm_count",
    "boost_clock_mhz",
    "memory_bytes",
    "memory_bandwidth_bytes_per_s",
    "l2_bytes",
    "smem_per_sm_bytes",
    "tdp_w",
)
_COMPUTE = ("matmul_fp32", "matmul_low", "conv3x3_fp32", "conv3x3_low", "attention")
_BANDWIDTH = ("matmul", "conv", "attention", "norm", "softmax", "activation", "elementwise", "embedding")
SECTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "spec": _SPEC,
        "peak_ops_per_s": DTYPES,
        "compute_efficiency": _COMPUTE,
        "bandwidth_efficiency": _BANDWIDTH,
        "launch": ("matmul_us", "other_us"),
        "interval": ("fp32", "low"),
    }
)
"""Keys of each section of numbers; all are required but the peaks, of which fp32 is."""

RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "spec": (1, 1e15),
        "peak_ops_per_s": (1e9, 1e17),
        "compute_efficiency": (
            0.01,
            4,
        ),  # above 1: Winograd does a 3×3 convolution with fewer multiplications
        "bandwidth_efficiency": (0.01, 1),
        "launch": (0, 1000),
        "interval": (1, 20),
    }
)
_TEXT = ("name", "vendor", "architecture", "compute_capability", "kind", "stack")
_KINDS = ("gpu", "cpu")
_PRICES = ("learned", "roofline")
_OPTIONAL = {"aliases", "unconfirmed", "prices", "calibration"}
_TOP = {*_TEXT, *SECTIONS, *_OPTIONAL, "sources", "schema"}


class DeviceError(ValueError):
    """A device that is unknown, a profile that is wrong, or a dtype the device has no peak for."""


@dataclass(frozen=True)
class Profile:
    """One device. `sm_count` counts cores and `smem_per_sm_bytes` level-1 caches where `kind` is `cpu`.

    `peak_ops_per_s` by dtype: floating-point (int8: integer) operations, a multiply-add being two. `stack`
    names the software that the efficiencies stand for: they change with it. `prices`: `learned` where the shipped
    constants may replace the efficiencies, `roofline` where these were measured on the machine itself.
    """

    name: str
    vendor: str
    architecture: str
    compute_capability: str
    kind: str
    stack: str
    aliases: tuple[str, ...]
    unconfirmed: tuple[str, ...]
    spec: Mapping[str, float]
    peak_ops_per_s: Mapping[str, float]
    compute_efficiency: Mapping[str, float]
    bandwidth_efficiency: Mapping[str, float]
    launch: Mapping[str, float]
    interval: Mapping[str, float]
    sources: Mapping[str, str]
    prices: str = "learned"
    calibration: Calibration | None = None

    def peak(self, dtype: str) -> float:
        """Peak operations per second at `dtype`; `DeviceError` lists the dtypes that the device has."""
        if dtype not in self.peak_ops_per_s:
            known = "" if dtype in DTYPES else f" (known are {', '.join(DTYPES)})"
            has = ", ".join(self.peak_ops_per_s)
            raise DeviceError(f"{self.name} has no {dtype} peak{known}: it has {has}. Choose one of these as the dtype")
        return self.peak_ops_per_s[dtype]


def read(path: Path) -> Profile:
    """The profile in a TOML file; `DeviceError` says which file and key is wrong, and what is allowed."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeviceError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DeviceError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise DeviceError(f"{path}: not TOML: {error}") from error
    return _Reader(path, raw).profile()


@dataclass(frozen=True)
class _Reader:
    path: Path
    raw: dict[str, object]

    def profile(self) -> Profile:
        self._keys(self.raw, _TOP, _TOP - _OPTIONAL, "")
        if self.raw["schema"] != 1:
            raise self._wrong("schema", self.raw["schema"], "1, the one this version reads")
        text = {key: self._text(key) for key in _TEXT}
        if text["kind"] not in _KINDS:
            raise self._wrong("kind", text["kind"], " or ".join(_KINDS))
        prices = self.raw.get("prices", "learned")
        if prices not in _PRICES:
            raise self._wrong("prices", prices, " or ".join(_PRICES))
        return Profile(
            name=text["name"],
            vendor=text["vendor"],
            architecture=text["architecture"],
            compute_capability=text["compute_capability"],
            kind=text["kind"],
            stack=text["stack"],
            aliases=self._strings("aliases"),
            unconfirmed=self._strings("unconfirmed"),
            spec=self._numbers("spec"),
            peak_ops_per_s=self._numbers("peak_ops_per_s"),
            compute_efficiency=self._numbers("compute_efficiency"),
            bandwidth_efficiency=self._numbers("bandwidth_efficiency"),
            launch=self._numbers("launch"),
            interval=self._numbers("interval"),
            sources=self._sources(),
            prices=str(prices),
            calibration=self._calibration(),
        )

    def _wrong(self, key: str, given: object, allowed: str) -> DeviceError:
        return DeviceError(f"{self.path}: {key} = {given!r}, but it must be {allowed}")

    def _keys(self, table: Mapping[str, object], known: set[str], required: set[str], where: str) -> None:
        section = f"[{where}] " if where else ""
        for key in table:
            if key not in known:
                raise DeviceError(f"{self.path}: unknown key {section}{key}: known are {', '.join(sorted(known))}")
        for key in sorted(required):
            if key not in table:
                raise DeviceError(f"{self.path}: key {section}{key} is missing")

    def _text(self, key: str) -> str:
        value = self.raw[key]
        if not isinstance(value, str) or (not value and key != "compute_capability"):
            raise self._wrong(key, value, "a text")
        return value

    def _strings(self, key: str) -> tuple[str, ...]:
        value = self.raw.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise self._wrong(key, value, "a list of texts")
        return tuple(value)

    def _table(self, section: str) -> dict[str, object]:
        value = self.raw[section]
        if not isinstance(value, dict):
            raise self._wrong(section, value, f"a table [{section}]")
        return value

    def _numbers(self, section: str) -> Mapping[str, float]:
        table, known = self._table(section), set(SECTIONS[section])
        self._keys(table, known, {"fp32"} if section == "peak_ops_per_s" else known, section)
        low, high = RANGES[section]
        numbers: dict[str, float] = {}
        for key in SECTIONS[section]:
            if key not in table:
                continue
            value = table[key]
            number = not isinstance(value, bool) and isinstance(value, (int, float))
            if not number or not math.isfinite(value) or not low <= value <= high:  # type: ignore[arg-type,operator]
                raise self._wrong(f"[{section}] {key}", value, f"a number from {low:g} to {high:g}")
            numbers[key] = float(value)  # type: ignore[arg-type]
        return MappingProxyType(numbers)

    def _calibration(self) -> Calibration | None:
        if "calibration" not in self.raw:
            return None
        try:
            return calibration.from_table(self._table("calibration"))
        except ValueError as error:
            raise DeviceError(f"{self.path}: [calibration] {error}") from error

    def _sources(self) -> Mapping[str, str]:
        table = self._table("sources")
        self._keys(table, set(SECTIONS), set(SECTIONS), "sources")
        for key, value in table.items():
            if not isinstance(value, str) or not value:
                raise self._wrong(f"[sources] {key}", value, "a text that says where the figures come from")
        return MappingProxyType({key: str(value) for key, value in table.items()})
