"""`search list`: what there is."""

from __future__ import annotations

import argparse
import sys

from archrank.search.catalogue import KINDS, entries
from archrank.search.cli._options import add_json, print_json

SUMMARY = "list spaces, devices, strategies, policies, families or objectives"
EXAMPLES = """
search list spaces
search list devices --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """KIND."""
    parser.add_argument("kind", metavar="KIND", help=" | ".join(KINDS))
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """One line each."""
    found = entries(args.kind)
    if args.json:
        print_json([{"name": name, "summary": summary} for name, summary in found])
    else:
        width = max((len(name) for name, _ in found), default=0)
        sys.stdout.writelines(f"{name:<{width}}  {summary}\n" for name, summary in found)
    return 0
