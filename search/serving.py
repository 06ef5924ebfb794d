"""For whom a run prices its candidates: the devices of --hw, the dtype they are served in; and where it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from archrank import predictors
from archrank.search.config import ConfigError, RunConfig

__all__ = ["check_dtype", "check_measurable", "default_dtype", "devices_of", "torch_device"]


def devices_of(config: RunConfig) -> dict[str, predictors.Device]:
    """{name as given: profile}; ConfigError where one is given twice."""
    devices = {name: predictors.load(name) for name in config.hw}
    if len(devices) < len(config.hw):
        raise ConfigError(f"--hw {' --hw '.join(config.hw)}: each device once")
    return devices


def check_measurable(names: Sequence[str], config: RunConfig) -> None:
    """ConfigError where a value that is wanted needs a device and there is none."""
    for name in names:
        if name.split("@")[0] in ("latency_ms", "memory_bytes") and not config.hw:
            raise ConfigError(f"{name} needs a device: add --hw, e.g. --hw a100 (`search list devices`)")


def default_dtype(devices: Mapping[str, predictors.Device]) -> str:
    """bf16 where all devices have it, else fp16 where they have that, else fp32; fp32 without a device."""
    if not devices:
        return "fp32"
    return next((t for t in ("bf16", "fp16") if all(t in d.profile.peak_ops_per_s for d in devices.values())), "fp32")


def check_dtype(config: RunConfig, devices: Mapping[str, predictors.Device]) -> None:
    """ConfigError where a device has no peak for the serving dtype."""
    for name, device in devices.items():
        if config.serve_dtype not in device.profile.peak_ops_per_s:
            has = ", ".join(device.profile.peak_ops_per_s)
            raise ConfigError(f"--serve-dtype {config.serve_dtype}: {name} has peaks for {has}")


def torch_device(name: str) -> torch.device:
    """The device that computes; ConfigError where torch has none of that name."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name}: must be cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {name}: must be cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device {name}: this torch sees no CUDA device; use --device cpu")
    return device
