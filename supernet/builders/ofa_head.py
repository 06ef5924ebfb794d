"""OFA-MobileNetV3's end."""

from __future__ import annotations

from torch import nn

from archrank.grammar import OpNode
from archrank.grammar.ops.ofa_head import FEATURES
from archrank.grammar.signatures import Shape
from archrank.supernet.builders._convolution import conv_norm


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """Expansion, mean, features, linear."""
    channels = inputs[0][0]
    wide = 6 * channels
    return nn.Sequential(
        conv_norm(channels, wide, 1, activation=nn.Hardswish()),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(wide, FEATURES, 1, bias=False),
        nn.Hardswish(),
        nn.Flatten(),
        nn.Linear(FEATURES, node.shape[0]),
    )
