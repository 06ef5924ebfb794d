"""`search explain`: what one sentence says, how likely it is and what it costs."""

from __future__ import annotations

import argparse
import sys

from archrank.search.cli._options import add_json, add_space, print_json
from archrank.search.cli._space import add_text

SUMMARY = "derivation, probability and cost of one candidate"
EXAMPLES = """
search explain einspace "seq(linear(64),branch2(clone,seq(norm,linear(64)),id,add))"
search explain einspace @best.txt --input 3x32x32 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """SPACE with what it is for, TEXT."""
    add_space(parser)
    add_text(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Exit code 2 with a caret under the place where TEXT is no sentence of the space."""
    from archrank.search import explained
    from archrank.search.cli._space import elaborated, given_space, numbers, read_sentence

    space = given_space(args)
    d = read_sentence(space, args.text)
    told = numbers(space, d)
    architecture = elaborated(space, d) if space.is_architecture_space else None
    if args.json:
        print_json({**told, "ops": explained.ops(space, d, architecture)})
        return 0
    sys.stdout.writelines(line + "\n" for line in explained.lines(space, d, architecture))
    return 0
