"""An inverted residual block of OFA-MobileNetV3."""

from __future__ import annotations

from torch import Tensor, nn

from archrank.grammar import OpNode
from archrank.grammar.ops.ofa_block import STAGES, squeezed
from archrank.grammar.signatures import Shape
from archrank.supernet.builders._convolution import conv_norm


class Squeeze(nn.Module):
    """Squeeze-and-excitation: each channel times a gate of the channels' means (arXiv 1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        small = squeezed(channels)
        self.reduce, self.expand = nn.Conv2d(channels, small, 1), nn.Conv2d(small, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, c, h, w) → the same."""
        gate = self.expand(nn.functional.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * nn.functional.hardsigmoid(gate)


class Block(nn.Module):
    """Expansion, depthwise, squeeze-and-excitation, projection."""

    def __init__(self, c_in: int, width: int, kernel: int, expand: int) -> None:
        super().__init__()
        stage, inner, self.added = STAGES[width], c_in * expand, c_in == width
        kind = nn.ReLU if stage.activation == "relu" else nn.Hardswish
        stride = 1 if self.added else stage.stride
        self.up = conv_norm(c_in, inner, 1, activation=kind())
        self.depth = conv_norm(inner, inner, kernel, stride, inner, kind())
        self.squeeze = Squeeze(inner) if stage.squeeze else nn.Identity()
        self.down = conv_norm(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, c, h, w) → (batch, width, h', w')."""
        made: Tensor = self.down(self.squeeze(self.depth(self.up(x))))
        return x + made if self.added else made


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """Arguments width, kernel, expansion ratio."""
    width, kernel, expand = (int(n) for n in node.arguments)
    return Block(inputs[0][0], width, kernel, expand)
