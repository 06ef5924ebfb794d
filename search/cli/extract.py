"""`search extract`: takes one candidate home and proves that it arrived."""

from __future__ import annotations

import argparse
import sys

from archrank.search.cli._options import add_json, print_json

SUMMARY = "export one point of the front, reload it with stock PEFT or transformers, compare"
EXAMPLES = """
search extract runs/1 --pick knee --as peft --out adapter/
search extract runs/2 --pick best:loss --where "latency_ms <= 3" --as torch --out network/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --pick, --where, --as, --out."""
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--pick", default="knee", metavar="WHICH", help="knee, best:OBJECTIVE, within:0.5%% or a trial's id"
    )
    parser.add_argument("--where", action="append", default=[], metavar="EXPR", help='"NAME <= VALUE" (repeatable)')
    parser.add_argument(
        "--as",
        dest="form",
        default=None,
        choices=["peft", "merged", "uniform", "torch", "onnx"],
        help="adapters: peft, a rank for each module (default); uniform, padded with zeros to one rank; merged, a "
        "transformers folder; onnx. Networks: torch, a torch.export program and weights (default); onnx. Encoders: "
        "merged (default); uniform, padded with zeros to the base's heads and one FFN width; peft, the adapter and "
        "its cut base; onnx",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write; must be empty or absent")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Exit code 4 when the reloaded folder does not answer as the supernet does."""
    from archrank.search.export import take_home
    from archrank.search.results import default_form, open_run

    run = open_run(args.run)
    for warning in run.warnings:
        print(f"search extract: {warning}", file=sys.stderr)
    form = args.form or default_form(run)
    taken = take_home(run, pick=args.pick, where=args.where, form=form, out=args.out)
    if args.json:
        print_json(taken.to_json())
    else:
        print(taken.describe())
    return 0
