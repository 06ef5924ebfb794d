"""`search resume`: goes on where a run stopped."""

from __future__ import annotations

import argparse

from archrank.search.cli._options import add_json

SUMMARY = "go on after any interruption, to the front of an uninterrupted run"
EXAMPLES = """
search resume runs/1
search resume runs/1 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN."""
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Resumes; a finished run answers at once."""
    from archrank.search.cli._finish import show_outcome
    from archrank.search.run import resume

    return show_outcome(resume(args.run), as_json=args.json)
