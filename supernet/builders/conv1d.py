"""A convolution along a sequence, padded to its length."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import pad

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape


class Conv1d(nn.Conv1d):
    """For an even kernel the one more element of padding stands at the end."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, in) → (batch, length, width)."""
        extra = self.kernel_size[0] - 1
        padded = pad(x.transpose(1, 2), (extra // 2, extra - extra // 2))
        return super().forward(padded).transpose(1, 2)


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """With bias."""
    return Conv1d(inputs[0][1], node.shape[1], int(node.arguments[0]))
