"""Windows of an image as rows."""

from __future__ import annotations

from torch import Tensor, nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape


class Windows(nn.Module):
    """torch.nn.Unfold with the positions as rows."""

    def __init__(self, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.unfold = nn.Unfold(kernel, stride=stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, c, h, w) → (batch, h'·w', c·k²)."""
        rows: Tensor = self.unfold(x)
        return rows.transpose(1, 2)


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """No parameters."""
    kernel, stride, padding = (int(n) for n in node.arguments)
    return Windows(kernel, stride, padding)
