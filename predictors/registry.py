"""The devices by name: `available()`, `summary(name)`, `load(name)`."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from pathlib import Path

from archrank.predictors import learned
from archrank.predictors import profile as profiles
from archrank.predictors.device import Device
from archrank.predictors.profile import DeviceError

DEVICES = Path(__file__).parent / "devices"


def available() -> tuple[str, ...]:
    """Names of the shipped devices: the files under `devices/`."""
    return tuple(sorted(path.stem for path in DEVICES.glob("*.toml")))


def summary(name: str) -> str:
    """One line on a device: its full name, memory, bandwidth, dtypes, and short names."""
    profile = load(name).profile
    spec = profile.spec
    figures = f"{spec['memory_bytes'] / 2**30:.0f} GiB, {spec['memory_bandwidth_bytes_per_s'] / 1e9:.0f} GB/s"
    also = f"; also {', '.join(profile.aliases)}" if profile.aliases else ""
    peaks = " ".join(profile.peak_ops_per_s)
    return f"{profile.vendor} {profile.name} ({profile.architecture}): {figures}, {peaks}{also}"


def load(name_or_path: str | Path) -> Device:
    """A shipped device by file name or alias (`a100`, `h100-pcie`; case and blanks do not matter), or a
    profile by its path.

    `DeviceError` (a ValueError) names the nearest devices where there is none of that name, and file and key
    where a profile is wrong.
    """
    given = str(name_or_path)
    if isinstance(name_or_path, Path) or given.endswith(".toml"):
        return _device(Path(given))
    return _shipped(given)


@cache
def _shipped(given: str) -> Device:
    names = _names()
    slug = "-".join(given.strip().lower().replace("_", " ").split())
    if slug not in names:
        near = get_close_matches(slug, names, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        shipped = ", ".join(available())
        raise DeviceError(f"unknown device {given!r}: {hint}shipped are {shipped}; or give the path of a .toml file")
    return _device(DEVICES / f"{names[slug]}.toml")


@cache
def _names() -> dict[str, str]:
    """File name of each name and alias."""
    names = {stem: stem for stem in available()}
    for stem in available():
        for alias in profiles.read(DEVICES / f"{stem}.toml").aliases:
            if names.setdefault(alias, stem) != stem:
                raise DeviceError(f"{DEVICES / stem}.toml: alias {alias!r} already names {names[alias]}")
    return names


def _device(path: Path) -> Device:
    profile = profiles.read(path)
    return Device(profile, learned.shipped() if profile.prices == "learned" else None, profile.calibration)
