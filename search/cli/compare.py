"""`search compare`: runs side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from archrank.search.cli._options import add_json, print_json

SUMMARY = "compare the fronts and hypervolumes of runs"
EXAMPLES = """
search compare runs/1 runs/2
search compare runs/1 runs/2 runs/3 --out compared.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN…, --out."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs with the same objectives")
    parser.add_argument("--out", metavar="FILE", help="write fronts, curves and intervals as one HTML file")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Prints a table, or a JSON list with one entry a run."""
    from archrank.search.comparing import as_json, compare, text_table, write_page

    found = compare(args.runs)
    if args.out:
        write_page(Path(args.out), found)
    if args.json:
        print_json(as_json(found))
    else:
        print(text_table(found), end="")
        if args.out:
            print(f"\npage     {args.out}")
    return 0
