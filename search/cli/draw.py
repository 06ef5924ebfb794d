"""`search draw`: a picture of one candidate."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from archrank.grammar.errors import shortened
from archrank.search.cli._options import add_space
from archrank.search.cli._space import add_text

if TYPE_CHECKING:
    from archrank.grammar import Derivation, Space

SUMMARY = "draw one candidate: its network, or the ranks of its adapters"
EXAMPLES = """
search draw einspace "seq(linear(64),branch2(clone,seq(norm,linear(64)),id,add))"
search draw einspace @best.txt --input 3x32x32 --out best.svg
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """SPACE with what it is for, TEXT, --format, --out, --width."""
    add_space(parser)
    add_text(parser)
    parser.add_argument(
        "--format", choices=["svg", "ascii"], help="default: svg where --out ends in .svg, otherwise ascii"
    )
    parser.add_argument("--out", metavar="FILE", help="where to write it (default: stdout)")
    parser.add_argument(
        "--width", type=int, metavar="N", help="characters of a line of ascii (default: the terminal's)"
    )


def run(args: argparse.Namespace) -> int:
    """Exit code 2 with a caret under the place where TEXT is no sentence of the space."""
    from archrank.search.cli._space import given_space, read_sentence
    from archrank.search.config import ConfigError
    from archrank.search.drawing.lanes import LEAST_WIDTH

    width = args.width if args.width is not None else shutil.get_terminal_size((100, 24)).columns
    if args.width is not None and width < LEAST_WIDTH:
        raise ConfigError(f"--width {width}: must be at least {LEAST_WIDTH}")
    as_svg = args.format == "svg" or (args.format is None and str(args.out or "").lower().endswith(".svg"))
    space = given_space(args)
    picture = _picture(space, read_sentence(space, args.text), as_svg, width)
    if args.out is None:
        sys.stdout.write(picture)
        return 0
    try:
        Path(args.out).write_text(picture, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {args.out}: cannot be written: {error.strerror or error}") from None
    print(args.out)
    return 0


def _picture(space: Space, d: Derivation, as_svg: bool, width: int) -> str:
    from archrank.search import drawing
    from archrank.search.cli._space import elaborated
    from archrank.search.explained import adapters

    if space.is_architecture_space:
        architecture = elaborated(space, d)
        title = f"{space.name}: {shortened(d.text, 72)}"
        return drawing.svg(architecture, title) if as_svg else drawing.ascii(architecture, title, width)
    if not space.is_site_space:
        raise drawing.DrawingError(
            f"sentences of {space.name} are no networks and no adapters: the file has neither //@ input nor "
            "//@ target_modules; `search explain` shows the derivation"
        )
    bars = [
        drawing.Bar(site.name, option.label if params else "", option.adapter.rank, params)
        for site, option, params, _ in adapters(space, d)
    ]
    return drawing.rank_svg(bars, space.name) if as_svg else drawing.rank_ascii(bars, space.name, width)
