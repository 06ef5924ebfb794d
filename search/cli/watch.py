"""`search watch`: a run as it goes."""

from __future__ import annotations

import argparse
import sys
import time

SUMMARY = "follow a run that is going on"
EXAMPLES = """
search watch runs/1
search watch runs/1 --once
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --every, --once."""
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument("--every", type=float, default=2.0, metavar="S", help="seconds between two looks (default: 2)")
    parser.add_argument("--once", action="store_true", help="one look")


def run(args: argparse.Namespace) -> int:
    """A line whenever the log has grown, until the run has ended; Ctrl-C leaves the run alone."""
    from archrank.search.config import ConfigError
    from archrank.search.results import open_run
    from archrank.search.watching import line

    if args.every <= 0:
        raise ConfigError(f"--every {args.every}: must be above 0 seconds")
    shown = ""
    while True:
        found = open_run(args.run)
        told = line(found)
        if told != shown:
            print(told, flush=True)
            shown = told
        if args.once or found.finished:
            if found.finished and len(front := found.front()):
                print(found.table(front), end="")
            return 0
        try:
            time.sleep(args.every)
        except KeyboardInterrupt:
            print("search watch: the run goes on", file=sys.stderr)
            return 0
