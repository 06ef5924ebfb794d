"""`search check`: reads and lints a space file."""

from __future__ import annotations

import argparse
import sys

from archrank.search.cli._options import add_json, add_run_flags, print_json

SUMMARY = "read and lint a space file; its size, branching and bounds"
EXAMPLES = """
search check lora_ranks
search check my_space.lark --base ./minilm
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """SPACE and, for a space over a base, --base and --target-modules."""
    parser.add_argument("space", metavar="SPACE", help="a .lark file or a shipped name")
    add_run_flags(parser, ("base", "target_modules"))
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Exit code 2 with file:line:column when the file cannot be used."""
    from archrank import grammar
    from archrank.search.binding import bound_space

    space = grammar.load(args.space)
    bound = bound_space(space, base=getattr(args, "base", None), target_modules=getattr(args, "target_modules", None))
    size = bound.size()
    lints = [
        {"line": lint.line, "column": lint.column, "code": lint.code, "message": lint.message} for lint in bound.lints
    ]
    if args.json:
        print_json({"lints": lints, "size": size})
        return 0
    sys.stdout.writelines(
        f"{space.path or space.name}:{x['line']}:{x['column']}: {x['code']}: {x['message']}\n" for x in lints
    )
    print(f"{space.name}: {_human(size)} candidates" + (f" on {len(bound.sites)} modules" if bound.sites else ""))
    for name, value in bound.bounds.items():
        print(f"bound: {name} <= {value:,.0f}")
    return 0


def _human(size: int | float) -> str:
    return (
        f"{size:,}"
        if size < 10**9
        else f"about 10^{len(str(int(size))) - 1}"
        if size != float("inf")
        else "infinitely many"
    )
