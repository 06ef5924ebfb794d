"""Pictures of candidates: `svg(architecture)` and `ascii(architecture)`; ranks of adapters as bars."""

from archrank.search.drawing.bars import Bar, rank_ascii, rank_svg
from archrank.search.drawing.lanes import ascii
from archrank.search.drawing.picture import DrawingError
from archrank.search.drawing.svg import svg

__all__ = ["Bar", "DrawingError", "ascii", "rank_ascii", "rank_svg", "svg"]
