"""OFA-MobileNetV3's beginning."""

from __future__ import annotations

from torch import Tensor, nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape
from archrank.supernet.builders._convolution import conv_norm


class Stem(nn.Module):
    """A convolution of stride 2, then a depthwise-separable block that is added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv_norm(channels, 16, 3, 2, activation=nn.Hardswish())
        self.depth = conv_norm(16, 16, 3, groups=16, activation=nn.ReLU())
        self.point = conv_norm(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, c, h, w) → (batch, 16, h/2, w/2)."""
        x = self.first(x)
        made: Tensor = x + self.point(self.depth(x))
        return made


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """16 channels."""
    return Stem(inputs[0][0])
