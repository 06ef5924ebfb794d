"""A picture measured for drawing: chains of ops become one box of rows, frames hold a drawing of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from archrank.search.drawing.layers import Spacing, arranged
from archrank.search.drawing.picture import INPUT, Frame, Picture, Row, shown_shape
from archrank.search.drawing.routes import Gaps, Placed, placed

CHARACTER, ROW, PADDING = 7.3, 25.0, 12.0
"""Width of a character of 12-pixel monospace type, height of a row, room left and right of its text."""
FRAME_TOP, FRAME_SIDE, FRAME_BOTTOM = 16.0, 18.0, 4.0
TAB = 6.9
_LEAST_WIDTH = 84.0
_PORTS = 16.0


class Arrow(NamedTuple):
    """A value on its way from one block to another; `times` where it is read several times at once."""

    source: int
    target: int
    times: int


@dataclass(frozen=True, slots=True)
class Stack:
    """Ops one after the other, in one box. `changes[i]`: the shape that row i gives, where it is another one."""

    rows: tuple[Row, ...]
    changes: tuple[str, ...]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels."""
        longest = max(
            len(text(row)) + (3 + 0.85 * len(shape) if shape else 0)
            for row, shape in zip(self.rows, self.changes, strict=True)
        )
        return max(_LEAST_WIDTH, 2 * PADDING + CHARACTER * longest), ROW * len(self.rows)


@dataclass(frozen=True, slots=True)
class Terminal:
    """Where the picture begins or ends: a pill with a text, or a point on the border of a frame."""

    label: str

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels."""
        return (2 * PADDING + CHARACTER * len(self.label), ROW) if self.label else (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Box:
    """A frame with its drawing inside."""

    frame: Frame
    inside: Sheet

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels."""
        return self.left + self.inside.placed.width + FRAME_SIDE, self.inside.placed.height + FRAME_TOP + FRAME_BOTTOM

    @property
    def left(self) -> float:
        """Room left of the drawing: as much as the frame's words need beside the arrow that comes in."""
        return max(FRAME_SIDE, TAB * len(self.frame.word) + 24.0 - self.inside.centres[0])


Block = Stack | Terminal | Box


@dataclass(frozen=True, slots=True)
class Sheet:
    """Blocks with their places: the first is where the input comes in, the last where the output goes out."""

    blocks: tuple[Block, ...]
    centres: tuple[float, ...]
    arrows: tuple[Arrow, ...]
    labels: tuple[str, ...]
    placed: Placed


def text(row: Row) -> str:
    """What stands in a row."""
    return row.word + (f" × {row.times}" if row.times > 1 else "")


def sheet(picture: Picture, ends: tuple[str, str] = ("", "")) -> Sheet:
    """The drawing of a picture; `ends`: what stands in the pills at its input and output."""
    chains = _chains(picture)
    at = {i: k + 1 for k, chain in enumerate(chains) for i in chain}
    at[INPUT] = 0
    first, last = Terminal(ends[0]), Terminal(ends[1])
    blocks: tuple[Block, ...] = (first, *(_block(picture, chain) for chain in chains), last)
    arrows = [*_arrows(picture, chains, at), Arrow(at[picture.output], len(blocks) - 1, 1)]
    unread = set(range(len(blocks) - 1)) - {arrow.source for arrow in arrows}
    arrows += [Arrow(k, len(blocks) - 1, 0) for k in sorted(unread) if k]
    sizes = [block.size for block in blocks]
    ports = _ports(picture, chains, arrows, blocks)
    layering = arranged([width for width, _ in sizes], [(a.source, a.target) for a in arrows], ports, Spacing())
    found = placed(layering, sizes, ports, Gaps())
    labels = tuple("" if isinstance(picture.items[c[-1]], Frame) else _label(picture, c) for c in chains)
    return Sheet(blocks, layering.centres[: len(blocks)], tuple(arrows), ("", *labels, ""), found)


def leaving(block: Block) -> tuple[float, float]:
    """Where the drawing in a frame begins and ends, relative to the frame's middle; 0 elsewhere."""
    if not isinstance(block, Box):
        return 0.0, 0.0
    start = block.left - block.size[0] / 2
    return start + block.inside.centres[0], start + block.inside.centres[-1]


def _label(picture: Picture, chain: Sequence[int]) -> str:
    return shown_shape(picture.items[chain[-1]].shape)


def _chains(picture: Picture) -> list[list[int]]:
    """Rows that follow one another without a fork, together; each frame alone."""
    readers: dict[int, int] = {picture.output: 1}
    for reads in picture.reads:
        for read in set(reads):
            readers[read] = readers.get(read, 0) + 1
    chains, end = list[list[int]](), dict[int, list[int]]()
    for i, (item, reads) in enumerate(zip(picture.items, picture.reads, strict=True)):
        before = end.get(reads[0]) if len(reads) == 1 and readers[reads[0]] == 1 else None
        if before is None or isinstance(item, Frame) or isinstance(picture.items[reads[0]], Frame):
            before = []
            chains.append(before)
        before.append(i)
        end[i] = before
    return chains


def _block(picture: Picture, chain: Sequence[int]) -> Block:
    rows = list[Row]()
    for i in chain:
        item = picture.items[i]
        if isinstance(item, Frame):
            return Box(item, sheet(item.body))
        rows.append(item)
    # the last row's shape stands at the arrow that leaves the box
    changes = [shown_shape(row.shape) if row.shape != row.takes else "" for row in rows[:-1]]
    return Stack(tuple(rows), (*changes, ""))


def _arrows(picture: Picture, chains: Sequence[Sequence[int]], at: dict[int, int]) -> list[Arrow]:
    found = list[Arrow]()
    for k, chain in enumerate(chains):
        reads = picture.reads[chain[0]]
        found.extend(Arrow(at[read], k + 1, reads.count(read)) for read in dict.fromkeys(reads))
    return found


def _ports(
    picture: Picture, chains: Sequence[Sequence[int]], arrows: Sequence[Arrow], blocks: Sequence[Block]
) -> list[tuple[float, float]]:
    """Arrows leave and enter at the middle, at a frame where its drawing begins and ends; where the order of inputs
    matters they enter side by side, in order.
    """
    entering: dict[int, list[int]] = {}
    for e, arrow in enumerate(arrows):
        entering.setdefault(arrow.target, []).append(e)
    found = [(leaving(blocks[a.source])[1], leaving(blocks[a.target])[0]) for a in arrows]
    for target, edges in entering.items():
        first = picture.items[chains[target - 1][0]] if target <= len(chains) else None
        if isinstance(first, Row) and first.ordered and len(edges) > 1:
            for k, e in enumerate(edges):
                found[e] = (found[e][0], (k - (len(edges) - 1) / 2) * _PORTS)
    return found
