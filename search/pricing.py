"""What a candidate costs where it will be served: closed forms and the device model, no weight touched.

The deployment is part of the price. Merged, an adapter leaves no trace: latency and memory are the base's, one
constant for the whole space. Unmerged, each adapted module adds its low-rank branch. vLLM runs its kernels at the
bucket of the largest rank, on every module of an adapted kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from archrank.grammar import ops
from archrank.grammar.signatures import AdapterOp
from archrank.grammar.workload import Workload
from archrank.predictors import Device
from archrank.supernet.tracing import with_adapters

__all__ = ["Pricer", "latency_name", "trained_params", "uniform_params"]


def trained_params(family: str, shape: tuple[int, int], rank: int) -> int:
    """Parameters that a family trains beside a layer `(out, in)` at a rank."""
    op = ops.load(family)
    assert isinstance(op, AdapterOp)
    return op.params(*shape, rank)


def uniform_params(family: str, shapes: Mapping[str, tuple[int, int]], rank: int) -> int:
    """The same over all modules at min(rank, in, out)."""
    return sum(trained_params(family, shape, min(rank, *shape)) for shape in shapes.values())


def latency_name(device: str, devices: list[str]) -> str:
    """`latency_ms`, or `latency_ms@DEVICE` where several devices are priced."""
    return "latency_ms" if len(devices) < 2 else f"latency_ms@{device}"


@dataclass(frozen=True)
class Pricer:
    """Prices configurations {module: rank} of one base.

    workload: the bare base's, traced at the served batch; shapes: {module: (out, in)}; rows: rows (tokens × batch)
    that pass each module; devices: {name as given: profile}; base_params: of the bare model; family: what is trained at
    a rank. Whatever the family, what is served is a LoRA of that rank.
    """

    workload: Workload
    shapes: Mapping[str, tuple[int, int]]
    devices: Mapping[str, Device]
    deploy: str
    dtype: str
    rows: Mapping[str, int]
    base_params: int
    family: str = "lora"

    def price(self, ranks: Mapping[str, int]) -> dict[str, float]:
        """adapter_params (trained), params, flops and, with a device, latency_ms and memory_bytes of one
        configuration.
        """
        work = with_adapters(self.workload, self.shapes, ranks, self.deploy, self.rows)
        served = sum(r * sum(self.shapes[name]) for name, r in ranks.items())
        costs = self._bare if work is self.workload else self._served(work)
        return {
            "adapter_params": sum(trained_params(self.family, self.shapes[name], r) for name, r in ranks.items()),
            "params": self.base_params + (0 if self.deploy == "merged" else served),
            **costs,
        }

    @cached_property
    def _bare(self) -> dict[str, float]:
        """Of what is served where adapters add nothing to it: the same for every configuration once merged."""
        return self._served(self.workload)

    def _served(self, work: Workload) -> dict[str, float]:
        values = {"flops": float(work.flops)}
        for name, device in self.devices.items():
            told = device.predict([work], dtype=self.dtype)
            values[latency_name(name, list(self.devices))] = float(told.ms[0])
            values.setdefault("memory_bytes", float(told.memory_bytes[0]))
        return values

    def too_large(self, values: Mapping[str, float]) -> str | None:
        """Why a configuration of these values cannot be served: more memory than a device has."""
        needed = values.get("memory_bytes", 0.0) / 2**30
        for device in self.devices.values():
            has = device.profile.spec["memory_bytes"] / 2**30
            if needed > has:
                return (
                    f"{device.name} has {has:.1f} GiB, but {needed:.1f} GiB are needed in {self.dtype} at this batch: "
                    "choose another device, a smaller --serve-batch or dtype"
                )
        return None

    def constants(self) -> dict[str, float]:
        """The values that are the same for every candidate under this deployment: no objectives."""
        if self.deploy != "merged":
            return {}
        return {name: value for name, value in self.price({}).items() if name != "adapter_params"}
