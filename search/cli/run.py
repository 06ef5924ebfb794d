"""`search run`: the whole job."""

from __future__ import annotations

import argparse

from archrank.search.cli._options import add_json, add_run_flags, config_from
from archrank.search.config import ConfigError

SUMMARY = "train a supernet once, search the space, leave a Pareto front"
EXAMPLES = """
search run lora_ranks --base ./minilm --data ./sst2 --hw a100 --trials 200 --out runs/1
search run einspace --data digits --hw a100 --objective loss --objective latency_ms
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """SPACE, --config and a flag for each field of RunConfig."""
    parser.add_argument(
        "space", nargs="?", metavar="SPACE", help="a .lark file or a shipped name (`search list spaces`)"
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file of flags; flags on the command line win")
    add_run_flags(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Runs; exit code 0, or 3 when nothing meets the constraints."""
    if args.space is None and args.config is None:
        raise ConfigError("no SPACE: give a .lark file or a shipped name, e.g. `search run lora_ranks`")
    from archrank.search.cli._finish import show_outcome
    from archrank.search.run import start

    return show_outcome(start(config_from(args)), as_json=args.json)
