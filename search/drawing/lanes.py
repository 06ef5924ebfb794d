"""A picture as text for terminals: one op a line, values as lanes at the left, each in a column of its own."""

from __future__ import annotations

import textwrap
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from archrank.grammar.architecture import Architecture
from archrank.search.drawing.folding import picture_of
from archrank.search.drawing.picture import Frame, Picture, Row, percent, share, shown_shape
from archrank.search.drawing.words import facts

LEAST_WIDTH = 40
_WORD = 30


def ascii(architecture: Architecture, title: str = "", width: int = 100) -> str:
    """The picture of an architecture as lines of at most `width` characters (at least LEAST_WIDTH are taken), in box
    drawing: a dot an op, a line a value; beside it the shape, the parameters and their share. Equal parts stand once.
    """
    width = max(LEAST_WIDTH, width)
    picture = picture_of(architecture)
    whole = _Lanes(picture, architecture.params, 1, (f"input {shown_shape(architecture.input)}", "output"))
    head = [title] if title else []
    told = textwrap.wrap(facts(architecture), width)
    lines = [*head, *told, "", *whole.lines(width)]
    return "".join(cut(line, width) + "\n" for line in lines)


def cut(line: str, width: int) -> str:
    """At most `width` characters, an ellipsis where more was there."""
    line = line.rstrip()
    return line if len(line) <= width else line[: width - 1] + "…"


@dataclass(slots=True)
class _Lanes:
    """Draws one picture. Line 0 is the input, line i + 1 item i, the last one the output; an edge runs from the line
    of a value to that of its reader.
    """

    picture: Picture
    whole: int
    copies: int
    ends: tuple[str, str] = ("", "")
    edges: list[tuple[int, int]] = field(default_factory=list)
    column: dict[tuple[int, int], int] = field(default_factory=dict)
    at: list[int] = field(default_factory=list)

    def lines(self, width: int) -> Iterator[str]:
        """The drawing, in lines that may still be too long."""
        self._columns()
        last = len(self.picture.items) + 1
        widest = max(self.column.values(), default=0)
        start = 2 * widest + 3 if 2 * widest + 3 <= width // 2 else 0
        words = max((len(_word(item)) for item in self.picture.items if isinstance(item, Row)), default=0)
        enter: list[list[int]] = [[] for _ in range(last + 1)]
        leave: list[list[int]] = [[] for _ in range(last + 1)]
        for edge in self.edges:
            leave[edge[0]].append(self.column[edge])
            enter[edge[1]].append(self.column[edge])
        active = set[int]()
        for line in range(last + 1):
            active.difference_update(enter[line])
            if len(enter[line]) > 1:
                yield _joined(active, sorted(enter[line]), "├┴╯")
            yield from self._line(line, active, start, min(words, _WORD), width)
            if len(leave[line]) > 1:
                yield _joined(active, sorted(leave[line]), "├┬╮")
            active.update(leave[line])

    def _line(self, line: int, active: set[int], start: int, words: int, width: int) -> Iterator[str]:
        item = self.picture.items[line - 1] if 0 < line <= len(self.picture.items) else None
        place = self.at[line]
        if item is None:
            text = self.ends[0 if line == 0 else 1]
            if text or (line == 0 and sum(edge[0] == 0 for edge in self.edges) > 1):
                yield _lead(active, place, "○", start) + text
        elif isinstance(item, Row):
            yield _lead(active, place, "●", start) + self._told(item, words)
        else:
            lead = _lead(active, place, "┆", start)
            yield _lead(active, place, "■", start) + f"╭ {item.word}"
            inside = _Lanes(item.body, self.whole, self.copies * item.count)
            for below in inside.lines(width - len(lead) - 2):
                yield f"{lead}│ {below}"
            yield lead + "╰"

    def _told(self, row: Row, words: int) -> str:
        part = share(row.params * row.times * self.copies, self.whole)
        params = f"{row.params:,}" if row.params else ""
        return f"{_word(row):<{words}}  {shown_shape(row.shape):<14}{params:>12}{percent(part):>7}".rstrip()

    def _columns(self) -> None:
        """A column for each edge: the first reader of a value stays in its column, the others go to the right, past all
        that is drawn before they end.
        """
        picture, last = self.picture, len(self.picture.items) + 1
        reads = [(), *picture.reads, (picture.output,)]
        self.edges = [(r + 1, line) for line in range(1, last + 1) for r in dict.fromkeys(reads[line])]
        self.at = [0] * (last + 1)
        leaving: list[list[int]] = [[] for _ in range(last + 1)]
        for a, b in self.edges:
            leaving[a].append(b)
        inner = sorted(self.edges)
        open_: dict[int, int] = {}  # column: the line at which it becomes free
        for line in range(last + 1):
            mine = [self.column[(a + 1, line)] for a in dict.fromkeys(reads[line])]
            self.at[line] = min(mine) if mine else _free(open_, 0, line)
            for k, reader in enumerate(sorted(leaving[line])):
                wanted = self.at[line] if not k else self.at[line] + _past(inner, line, reader)
                taken = {c: until for c, until in open_.items() if until > line}
                chosen = wanted if not k else _free(taken, wanted, line)
                self.column[line, reader] = chosen
                open_[chosen] = reader


def _past(edges: Sequence[tuple[int, int]], line: int, reader: int) -> int:
    """How many edges that begin at `line` or later are drawn side by side before `reader`."""
    change = [0] * (reader - line + 1)
    for a, b in edges[bisect_left(edges, (line, 0)) : bisect_left(edges, (reader, 0))]:
        if a > line or b < reader:
            change[a - line] += 1
            change[min(b, reader) - line] -= 1
    most = now = 0
    for step in change[:-1]:
        now += step
        most = max(most, now)
    return max(1, most)


def _free(open_: dict[int, int], wanted: int, line: int) -> int:
    while open_.get(wanted, -1) > line:
        wanted += 1
    return wanted


def _word(item: Row | Frame) -> str:
    if isinstance(item, Frame):
        return item.word
    return item.word + (f" × {item.times}" if item.times > 1 else "")


def _lead(active: set[int], place: int, mark: str, start: int) -> str:
    """The lanes of a line, with a mark in one of them."""
    widest = max([*active, place])
    cells = ["│" if c in active else mark if c == place else " " for c in range(widest + 1)]
    cells[place] = mark
    return " ".join(cells).ljust(start) if start else " ".join(cells) + "  "


def _joined(active: set[int], columns: Sequence[int], marks: str) -> str:
    """The line between lanes that begin or end at the leftmost of `columns`."""
    first, last = columns[0], columns[-1]
    cells = []
    for c in range(max([*active, last]) + 1):
        inside = first < c < last
        if c == first:
            cell = marks[0]
        elif c == last:
            cell = marks[2]
        elif c in columns:
            cell = marks[1]
        elif c in active:
            cell = "┼" if inside else "│"
        else:
            cell = "─" if inside else " "
        cells.append(cell + ("─" if first <= c < last else " "))
    return "".join(cells)
