"""Parameters, FLOPs and costs of the square convolutions that the ops of images are made of."""

from __future__ import annotations

from dataclasses import dataclass

from archrank.grammar.workload import OpCost


@dataclass(frozen=True, slots=True)
class Conv:
    """A square convolution of (c_in, h, w) padded by ⌊kernel / 2⌋, without bias; `norm` adds batch normalisation."""

    c_in: int
    c_out: int
    high: int
    wide: int
    kernel: int
    stride: int = 1
    groups: int = 1
    norm: bool = True

    @property
    def out(self) -> tuple[int, int]:
        """(h', w') = ⌊(h + 2 ⌊k/2⌋ − k) / s⌋ + 1."""
        pad = 2 * (self.kernel // 2)
        return (
            (self.high + pad - self.kernel) // self.stride + 1,
            (self.wide + pad - self.kernel) // self.stride + 1,
        )

    @property
    def params(self) -> int:
        """c_out · c_in / groups · k², and 2 · c_out of the normalisation."""
        return self.c_out * (self.c_in // self.groups) * self.kernel**2 + (2 * self.c_out if self.norm else 0)

    @property
    def flops(self) -> int:
        """2 · weights · h' · w'."""
        high, wide = self.out
        return 2 * self.c_out * (self.c_in // self.groups) * self.kernel**2 * high * wide

    def costs(self, batch: int, activation: str = "") -> tuple[OpCost, ...]:
        """The convolution, its normalisation, and an activation of that name where one is given."""
        dims = {
            "b": batch, "c_in": self.c_in, "c_out": self.c_out, "h": self.high, "w": self.wide, "kernel": self.kernel,
            "stride": self.stride, "padding": self.kernel // 2, "groups": self.groups,
        }  # fmt: skip
        rows = batch * self.out[0] * self.out[1]
        found = [OpCost.of("conv2d", dims)]
        if self.norm:
            found.append(OpCost.of("layer_norm", {"m": rows, "n": self.c_out}))
        if activation:
            found.append(OpCost.of(activation, {"m": rows, "n": self.c_out}))
        return tuple(found)
