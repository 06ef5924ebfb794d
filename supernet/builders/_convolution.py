"""What several builders share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import conv2d

__all__ = ["WindowLinear", "conv_norm"]


class WindowLinear(nn.Module):
    """im2col, linear, col2im in one convolution: W (d, c·k²) is read as (d, c, k, k), since a window's elements stand
    in the order channel, row, column.
    """

    def __init__(self, linear: nn.Linear, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.kernel, self.stride, self.padding = kernel, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """(batch, c, h, w) → (batch, d, h', w')."""
        weight = self.weight.view(len(self.weight), -1, self.kernel, self.kernel)
        return conv2d(x, weight, self.bias, self.stride, self.padding)


def conv_norm(
    c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1, activation: nn.Module | None = None
) -> nn.Sequential:
    """A square convolution without bias, padded by ⌊kernel / 2⌋, batch normalisation, an activation."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), *([activation] if activation is not None else []))
