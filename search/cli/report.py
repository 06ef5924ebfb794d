"""`search report`: one self-contained HTML file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from archrank.search.cli._options import add_json, print_json

SUMMARY = "write the run's report as one HTML file that works offline"
EXAMPLES = """
search report runs/1
search report runs/1 --serve
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --out, --serve, --port."""
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument("--out", metavar="FILE", help="where to write it (default: RUN/report.html)")
    parser.add_argument("--serve", action="store_true", help="serve it on this machine, drawn anew at each visit")
    parser.add_argument("--port", type=int, default=8090, metavar="N", help="of --serve (default: 8090; 0: any free)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Works on unfinished runs too."""
    from archrank.search.results import open_run
    from archrank.search.summary import write_report

    run = open_run(args.run)
    for warning in run.warnings:
        print(f"search report: {warning}", file=sys.stderr)
    if args.serve:
        from archrank.search.serving_report import serve

        return serve(args.run, args.port)
    path = write_report(run, Path(args.out) if args.out else None)
    if args.json:
        print_json({"path": str(path)})
    else:
        print(path)
    return 0
