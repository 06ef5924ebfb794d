"""NAS-Bench-201's residual block of stride 2."""

from __future__ import annotations

from torch import Tensor, nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape
from archrank.supernet.builders._convolution import conv_norm


class Reduction(nn.Module):
    """Two convolutions beside mean pooling and a 1×1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.ReLU(), conv_norm(channels, 2 * channels, 3, 2))
        self.second = nn.Sequential(nn.ReLU(), conv_norm(2 * channels, 2 * channels, 3))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, 2 * channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, c, h, w) → (batch, 2c, h/2, w/2)."""
        made: Tensor = self.second(self.first(x)) + self.shortcut(x)
        return made


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """Doubles the channels."""
    return Reduction(inputs[0][0])
