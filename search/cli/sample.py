"""`search sample`: sentences of a space."""

from __future__ import annotations

import argparse

from archrank.search.cli._options import add_json, add_run_flags, add_space, print_json

SUMMARY = "draw candidates from a space, one sentence a line"
EXAMPLES = """
search sample lora_ranks -n 5 --where "adapter_params <= 4k"
search sample einspace -n 5 --seed 0 --input 3x32x32 --where "params <= 12k and flops <= 1M" --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """SPACE with what it is for, -n, --seed, --where."""
    add_space(parser)
    parser.add_argument("-n", type=int, default=1, metavar="N", help="how many (default: 1)")
    add_run_flags(parser, ("seed", "where"))
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Exit code 3 when no sentence meets --where."""
    import numpy as np

    from archrank.search.binding import within
    from archrank.search.cli._space import given_space, numbers
    from archrank.search.config import ConfigError
    from archrank.search.errors import NothingFeasible

    if args.n < 0:
        raise ConfigError(f"-n {args.n}: must be at least 0")
    where = getattr(args, "where", ())
    space = within(given_space(args), where)
    try:
        drawn = space.sample(np.random.default_rng(getattr(args, "seed", 0)), n=args.n)
    except ValueError as error:  # the bounds leave sentences, and none that can be drawn
        raise (NothingFeasible if where else ConfigError)(str(error)) from None
    if args.json:
        print_json([{"text": d.text, **numbers(space, d)} for d in drawn])
    else:
        for d in drawn:
            print(d.text)
    return 0
