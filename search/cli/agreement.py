"""`search agreement`: Kendall's τ of inherited against converged scores."""

from __future__ import annotations

import argparse
import sys

from archrank.search.cli._options import add_json, print_json

SUMMARY = "train a sample of a run's configurations alone and say how well the supernet had ranked them"
EXAMPLES = """
search agreement runs/1
search agreement runs/1 --configs 150 --seeds 3 --train-steps 2000 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --configs, --seeds, --train-steps."""
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--configs", type=int, default=48, metavar="N", help="a third over all budgets, the rest at equal ones"
    )
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="of each training, at least 2 (default: 2)")
    parser.add_argument("--train-steps", type=int, metavar="N", help="of each training (default: the run's own)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Keeps what it trained in RUN/agreement/."""
    from archrank.search.agreement import agreement

    def tick(done: int, total: int) -> None:
        print(f"agreement: {done}/{total} trainings", file=sys.stderr)

    found = agreement(args.run, args.configs, args.seeds, args.train_steps, tick)
    if args.json:
        print_json(found.to_json())
    else:
        print(found.describe())
    return 0
