"""The command `search`: one file a subcommand. This module wires them and turns errors into messages and exit codes."""

from __future__ import annotations

import argparse
import os
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

__all__ = ["main"]

EXIT_CODES = """exit codes:
  0 done · 2 bad input · 1 the run failed (what was finished is kept) · 3 nothing meets the constraints
  4 an export failed its check · 75 stopped by SIGTERM, resumable · 130 interrupted"""


class Command(Protocol):
    """What a subcommand's file holds."""

    SUMMARY: str
    EXAMPLES: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the flags."""

    def run(self, args: argparse.Namespace) -> int:
        """Does the work; returns the exit code."""


def commands() -> dict[str, Command]:
    """{name: module}, sorted by where they stand in a user's day."""
    order = ["run", "plan", "resume", "watch", "front", "compare", "extract", "report", "bench"]
    order += ["shrink", "agreement", "check", "sample", "explain", "draw", "list"]
    names = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    names.sort(key=lambda n: (order.index(n) if n in order else len(order), n))
    return {name: cast(Command, import_module(f"{__name__}.{name}")) for name in names}


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; imports nothing heavy."""
    from archrank import __version__

    parser = argparse.ArgumentParser(
        prog="search",
        description=(
            "Neural architecture and rank search: a grammar defines the space, a supernet and a device model price it, "
            "a Pareto front comes home."
        ),
        epilog="example:\n  search run lora_ranks --hw a100\n\n" + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"archrank {__version__}")
    places = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in commands().items():
        place = places.add_parser(
            name,
            help=command.SUMMARY,
            description=command.SUMMARY,
            epilog="examples:\n" + "".join(f"  {line}\n" for line in command.EXAMPLES.strip().splitlines()),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_arguments(place)
        place.set_defaults(run_command=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. Input errors of archrank become one message, other errors keep their
    traceback.
    """
    from archrank.search.errors import exit_code_of

    args = build_parser().parse_args(argv)
    try:
        return int(args.run_command(args))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader (head, less) has seen enough
        return 0
    except Exception as error:
        code = exit_code_of(error)
        if code is None:
            raise
        print(f"search {args.command}: {error}", file=sys.stderr)
        return code
