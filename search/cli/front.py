"""`search front`: the Pareto set of a run."""

from __future__ import annotations

import argparse
import sys

from archrank.search.cli._options import add_json, print_json

SUMMARY = "show the Pareto front of a run"
EXAMPLES = """
search front runs/1 --where "adapter_params <= 10k" --json
search front runs/1 --epsilon 5%
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --where, --epsilon."""
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument("--where", action="append", default=[], metavar="EXPR", help='"NAME <= VALUE" (repeatable)')
    parser.add_argument(
        "--epsilon",
        action="append",
        default=[],
        metavar="[NAME=]E",
        help="one point of each box that is E wide: 5%% of a value, or 0.01 in its unit; of one objective or of all "
        "(repeatable)",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Exit code 3 when no point meets --where."""
    from archrank.search.results import open_run

    run = open_run(args.run)
    for warning in run.warnings:
        print(f"search front: {warning}", file=sys.stderr)
    front = run.front(where=args.where)
    if args.epsilon:
        front = front.epsilon_net(args.epsilon)
    if args.json:
        print_json([t.to_json() for t in front])
    else:
        print(run.table(front), end="")
    if not len(front):
        print("search front: nothing meets the constraints", file=sys.stderr)
        return 3
    return 0
