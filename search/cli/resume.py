"""`search resume`: goes on where a run stopped."""

from __future__ import annotations

import argparse

from archrank.search.cli._options import add_json

SUMMARY = "go on after any interruption, to the front of an uninterrupted run"
EXAMPLES = """
search resume runs/1
search resume runs/1 --ray 10.0.0.1:6379 --workers 8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, and where to go on if not where it was."""
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument("--ray", metavar="V", help="auto, HOST:PORT, or none (default: as before)")
    parser.add_argument("--workers", type=int, metavar="N", help="of the cluster (default: as before)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Resumes; a finished run answers at once."""
    from archrank.search.cli._finish import show_outcome
    from archrank.search.run import resume

    return show_outcome(resume(args.run, ray=args.ray, workers=args.workers), as_json=args.json)
