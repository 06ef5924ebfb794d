"""`search shrink`: an existing LoRA folder with a rank for each module."""

from __future__ import annotations

import argparse

from archrank.search.cli._options import add_json, print_json

SUMMARY = "turn any PEFT LoRA folder into one with a rank for each module; no data and no base needed"
EXAMPLES = """
search shrink adapter/ --spectral-energy 0.95 --out small/
search shrink adapter/ --where "adapter_params <= 500k" --out small/ --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """ADAPTER, the rules, --out."""
    parser.add_argument("adapter", metavar="ADAPTER", help="folder with adapter_config.json and safetensors")
    rules = parser.add_argument_group("how ranks are chosen (several: the least of each)")
    rules.add_argument("--spectral-energy", type=float, metavar="E", help="share of Σ σ² kept in each module; 1: all")
    rules.add_argument("--max-rank", type=int, metavar="R", help="of any module: its best approximation of that rank")
    rules.add_argument(
        "--where", action="append", default=[], metavar="EXPR", help='"adapter_params <= N", shared over all modules'
    )
    rules.add_argument("--ranks", metavar="auto", help="auto: the smallest within --within of the whole adapter's loss")
    loss = parser.add_argument_group("for --ranks auto")
    loss.add_argument("--data", metavar="D", help="data folder, file, hub name or built-in name")
    loss.add_argument("--base", metavar="M", help="model folder or hub name (default: what the adapter names)")
    loss.add_argument("--task", metavar="T", help="inferred where it can be")
    loss.add_argument("--within", default="0.5%", metavar="P", help="of the loss (default: 0.5%%)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write; must be empty or absent")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Exit code 2 for a folder that is no plain LoRA, 3 where nothing could be kept."""
    from pathlib import Path

    from archrank.search.config import read_share
    from archrank.search.shrinking import ShrinkPlan, run_shrink

    plan = ShrinkPlan(
        spectral_energy=args.spectral_energy,
        max_rank=args.max_rank,
        where=tuple(args.where),
        ranks=args.ranks,
        data=args.data,
        base=args.base,
        task=args.task,
        within=read_share("--within", args.within),
    )
    done = run_shrink(Path(args.adapter), plan, Path(args.out))
    if args.json:
        print_json(done.to_json())
    else:
        print(done.describe())
    return 0
