"""`search bench`: strategies on a table of known values."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from archrank.search.cli._options import add_json, print_json

if TYPE_CHECKING:
    from archrank.search.bench.cells import Cell

SUMMARY = "compare strategies on a table of known values"
EXAMPLES = """
search bench nasbench201 --table nasbench201.csv.gz --objective c100_test:max --strategy nsga2 --seeds 5
search bench nasbench201 --references references.json --task nb201_c100_titanrtx --strategy surrogate --plot bench.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """SPACE, --table, --references, --task, --objective, --where, --strategy, --seeds, --trials, --plot."""
    parser.add_argument("space", metavar="SPACE", help="a .lark file or a shipped name")
    parser.add_argument(
        "--table",
        metavar="FILE",
        help="CSV (.csv.gz) with a row a sentence: a column `text`, or the benchmark's own",
    )
    parser.add_argument("--references", metavar="FILE", help="JSON with tasks: objectives, reference points, optima")
    parser.add_argument("--task", metavar="NAME", help="the task of --references")
    parser.add_argument(
        "--objective", action="append", default=[], metavar="V", help="a column of --table, COLUMN:min|max (repeatable)"
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="EXPR",
        help='"NAME <= VALUE" on a task of several objectives (repeatable): how soon and how often it is met',
    )
    parser.add_argument(
        "--strategy", action="append", default=[], metavar="S", help="repeatable; default: surrogate and random"
    )
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="seeds 0 … N - 1 (default: 20)")
    parser.add_argument("--trials", type=int, default=500, metavar="N", help="evaluations of each (default: 500)")
    parser.add_argument("--plot", metavar="FILE", help="write the curves with intervals as an HTML page")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Prints a table, or the JSON document {strategy: {measure: {evaluations: [per seed]}}}."""
    from archrank.search import strategies
    from archrank.search.bench.cells import run_cell
    from archrank.search.bench.figure import write_plot
    from archrank.search.bench.table import text_table
    from archrank.search.bench.task import from_references, from_table
    from archrank.search.config import ConfigError
    from archrank.search.expression import parse_where
    from archrank.search.progress import open_progress

    for flag, value in (("--seeds", args.seeds), ("--trials", args.trials)):
        if value < 1:
            raise ConfigError(f"{flag} {value}: must be at least 1")
    names = list(dict.fromkeys(args.strategy)) or ["surrogate", "random"]
    for name in names:
        strategies.load(name)
    if args.references:
        if args.objective:
            raise ConfigError("--objective stands in the task of --references: leave one of the two out")
        task = from_references(Path(args.references), args.task, args.space, args.table and Path(args.table))
    elif args.task:
        raise ConfigError(f"--task {args.task}: --references is missing, the file that it stands in")
    elif args.table:
        task = from_table(Path(args.table), args.space, args.objective)
    else:
        raise ConfigError("--table or --references is missing: the values to search for")
    where = [c for text in args.where for c in parse_where(text, [o.name for o in task.objectives])]
    if where and len(task.objectives) == 1:
        raise ConfigError(f"--where {args.where[0]}: is for a task of several objectives; {task.name} has one")
    cells = {}
    with open_progress() as progress:
        for name in names:
            progress.phase(name, total=args.seeds * args.trials, unit="evaluations")
            done = [0]

            def tick(n: int, done: list[int] = done) -> None:
                done[0] += n
                progress.update(done[0])

            cells[name] = [run_cell(task, name, seed, args.trials, tick, where=where) for seed in range(args.seeds)]
    if args.plot:
        write_plot(Path(args.plot), task, cells)
    if args.json:
        print_json(
            {
                name: {task.measure: {str(n): [c.scores[n] for c in of] for n in of[0].scores}}
                | (_feasibility(of) if where else {})
                for name, of in cells.items()
            }
        )
    else:
        print(text_table(task, cells), end="")
        for name, of in cells.items() if where else ():
            firsts = [c.first_feasible for c in of if c.first_feasible is not None]
            share = sum(c.feasible for c in of) / max(sum(c.ended for c in of), 1)
            soon = f"the first after {sum(firsts) / len(firsts):.1f}" if firsts else "none in any seed"
            print(f"{name}: {share:.1%} of the evaluations meet --where, {soon} (mean of {len(firsts)} seeds)")
        if args.plot:
            print(f"\nplot     {args.plot}")
    return 0


def _feasibility(cells: Sequence[Cell]) -> dict[str, list[float | int | None]]:
    """Per seed."""
    return {
        "first_feasible": [c.first_feasible for c in cells],
        "feasible_share": [c.feasible / max(c.ended, 1) for c in cells],
    }
