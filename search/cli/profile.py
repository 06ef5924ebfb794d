"""`search profile`: the machine at hand as a device."""

from __future__ import annotations

import argparse
import sys

from archrank.search.cli._options import add_json, print_json

SUMMARY = "measure this machine as a device for --hw"
EXAMPLES = """
search profile --out my.toml
search profile --out my.toml --dtype fp32 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--out, --dtype, --name."""
    parser.add_argument("--out", required=True, metavar="FILE", help="the .toml file to write")
    parser.add_argument(
        "--dtype", action="append", default=[], metavar="T", help="to time (repeatable; default: fp32 and bf16)"
    )
    parser.add_argument("--name", metavar="NAME", help="the device's name (default: what the chip calls itself)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Times the op table with a progress bar on stderr, and writes the profile."""
    from rich.console import Console
    from rich.progress import track

    from archrank import predictors
    from archrank.search import measuring, profiling

    dtypes = tuple(dict.fromkeys(args.dtype or ("fp32", "bf16")))
    for dtype in dtypes:
        measuring.torch_dtype(dtype)
    where = profiling.here()
    cases = profiling.cases(dtypes, "gpu" if where.type == "cuda" else "cpu")
    rows = [profiling.measure(case, where) for case in track(cases, "timing ops", console=Console(stderr=True))]
    profile = profiling.profile(rows, where, args.name)
    path = predictors.save(predictors.Device(profile), args.out)
    if args.json:
        print_json({"path": str(path)})
    else:
        print(path)
        print(f"search profile: {profile.name}, {len(rows)} ops", file=sys.stderr)
    return 0
