"""`search sample`: sentences of a space."""

from __future__ import annotations

import argparse

from archrank.search.cli._options import add_json, add_run_flags, print_json

SUMMARY = "draw candidates from a space, one sentence a line"
EXAMPLES = """
search sample lora_ranks -n 5 --seed 0
search sample lora_ranks -n 5 --where "adapter_params <= 4k" --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """SPACE, -n, --seed, --where and, for a space over a base, --base and --target-modules."""
    parser.add_argument("space", metavar="SPACE", help="a .lark file or a shipped name")
    parser.add_argument("-n", type=int, default=1, metavar="N", help="how many (default: 1)")
    add_run_flags(parser, ("base", "target_modules", "seed", "where"))
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Exit code 3 when no sentence meets --where."""
    import numpy as np

    from archrank import grammar
    from archrank.search.binding import bound_space, tightened
    from archrank.search.config import ConfigError

    if args.n < 0:
        raise ConfigError(f"-n {args.n}: must be at least 0")
    space = bound_space(
        grammar.load(args.space), base=getattr(args, "base", None), target_modules=getattr(args, "target_modules", None)
    )
    space = tightened(space, getattr(args, "where", ()))
    drawn = list(space.sample(np.random.default_rng(getattr(args, "seed", 0)), n=args.n))
    if args.json:
        rows = []
        for d in drawn:
            cost = space.cost(d)
            rows.append(
                {
                    "text": d.text,
                    "key": d.key,
                    "log_prob": space.log_prob(d),
                    "params": cost.params,
                    "flops": cost.flops,
                }
            )
        print_json(rows)
    else:
        for d in drawn:
            print(d.text)
    return 0
