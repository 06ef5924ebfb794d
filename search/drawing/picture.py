"""What is drawn: ops as rows, equal parts once in a frame with their number. Plain data, no coordinates."""

from __future__ import annotations

from dataclasses import dataclass

from archrank.grammar.errors import shortened
from archrank.grammar.signatures import Shape

_LONGEST = 24  # characters of arguments in a picture
INPUT = -1
"""The place of a picture's input among the reads of its items."""


class DrawingError(ValueError):
    """Something that has no picture."""


@dataclass(frozen=True, slots=True)
class Row:
    """One op. `takes` and `shape`: of its first input and its output, without the batch. `params`, `flops` of one op,
    `times`: how many equal ones stand here side by side.
    """

    op: str
    arguments: str
    takes: Shape
    shape: Shape
    params: int
    flops: int
    times: int = 1
    ordered: bool = False

    @property
    def shown(self) -> str:
        """The arguments as they stand in the picture: cut where they are long."""
        return shortened(self.arguments, _LONGEST)

    @property
    def word(self) -> str:
        """The op as it is written in the picture."""
        return f"{self.op} {self.shown}".rstrip()

    @property
    def full(self) -> str:
        """The op with all its arguments."""
        return f"{self.op} {self.arguments}".rstrip()


@dataclass(frozen=True, slots=True)
class Frame:
    """A part that stands `count` times: side by side, each with weights of its own, or in a row (`sequence`)."""

    count: int
    sequence: bool
    body: Picture

    @property
    def shape(self) -> Shape:
        """Of its output."""
        return self.body.shape

    @property
    def word(self) -> str:
        """What stands at the frame."""
        return f"× {self.count} {'in a row' if self.sequence else 'side by side'}"


Item = Row | Frame


@dataclass(frozen=True, slots=True)
class Picture:
    """Items in an order in which they can run; `reads[i]`: the items that item i reads, INPUT for the picture's own
    input, one repeated where it is read several times. `output`: the item that gives the picture's value.
    """

    input: Shape
    items: tuple[Item, ...]
    reads: tuple[tuple[int, ...], ...]
    output: int

    @property
    def shape(self) -> Shape:
        """Of its output."""
        return self.shape_of(self.output)

    def shape_of(self, source: int) -> Shape:
        """The shape that an item gives."""
        return self.input if source == INPUT else self.items[source].shape

    def rows(self) -> int:
        """Rows in all, those of frames counted once."""
        return sum(item.body.rows() if isinstance(item, Frame) else 1 for item in self.items)


def shown_shape(shape: Shape) -> str:
    """`3×64×64`."""
    return "×".join(map(str, shape))


def share(part: int, whole: int) -> float:
    """The share of a part, 0 where there is no whole."""
    return part / whole if whole else 0.0


def percent(value: float) -> str:
    """`12 %`, `0.4 %`, nothing for 0."""
    if value <= 0:
        return ""
    if value < 0.0005:
        return "<0.1 %"
    return f"{value * 100:.0f} %" if value >= 0.0995 else f"{value * 100:.1f} %"
