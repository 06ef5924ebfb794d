"""What a cut encoder costs where it will be served: the base without its layers, traced, and each kept layer in closed
form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from archrank.grammar import EncoderLayer, LayerChoice
from archrank.grammar.layers import layer_workload
from archrank.grammar.workload import Workload
from archrank.predictors import Device
from archrank.search.config import RunConfig
from archrank.search.pricing import latency_name
from archrank.supernet.cutting import cut_model
from archrank.supernet.encoders import LayerModules
from archrank.supernet.tracing import trace

__all__ = ["CutPricer"]


@dataclass(frozen=True)
class CutPricer:
    """Prices choices {layer: LayerChoice} over one base.

    rest: the workload of the base without its layers at the served batch; params: its parameters; length: tokens of a
    row; unmerged: whether adapters stay beside the weights.
    """

    rest: Workload
    params: int
    layers: Mapping[str, EncoderLayer]
    devices: Mapping[str, Device]
    dtype: str
    batch: int
    length: int
    unmerged: bool

    @classmethod
    def of(
        cls, config: RunConfig, base: nn.Module, layers: Mapping[str, LayerModules], devices: Mapping[str, Device]
    ) -> CutPricer:
        """For a base, traced once whole for its number of tokens and once without layers."""
        assert config.serve_seq is not None
        assert config.serve_dtype is not None
        whole = trace(base, batch=config.serve_batch, seq=config.serve_seq)
        first = next(iter(layers.values())).names["q"]
        empty = cut_model(base, layers, {})
        return cls(
            trace(empty, batch=config.serve_batch, seq=config.serve_seq),
            sum(p.numel() for p in empty.parameters()),
            {name: modules.sizes for name, modules in layers.items()},
            devices,
            config.serve_dtype,
            config.serve_batch,
            whole.rows[first] // config.serve_batch,
            config.deploy == "unmerged",
        )

    def workload(self, choices: Mapping[str, LayerChoice]) -> Workload:
        """One forward at the served batch."""
        work = self.rest
        for name, choice in choices.items():
            if choice.kept:
                work = work + layer_workload(self.layers[name], choice, self.length, self.batch, adapters=self.unmerged)
        return work

    def price(self, choices: Mapping[str, LayerChoice]) -> dict[str, float]:
        """adapter_params, params, flops and, with a device, latency_ms and memory_bytes of one sub-network."""
        work = self.workload(choices)
        values: dict[str, float] = {
            "adapter_params": float(sum(self.layers[n].adapter_params(c) for n, c in choices.items())),
            "params": float(self.params + work.weight_elements - self.rest.weight_elements),
            "flops": float(work.flops) / self.batch,
        }
        for name, device in self.devices.items():
            told = device.predict([work], dtype=self.dtype)
            values[latency_name(name, list(self.devices))] = float(told.ms[0])
            values.setdefault("memory_bytes", float(told.memory_bytes[0]))
        return values
