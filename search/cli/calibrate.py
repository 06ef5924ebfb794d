"""`search calibrate`: a device fitted to a few measured networks."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from archrank.search.cli._options import add_json, add_space, print_json

if TYPE_CHECKING:
    from archrank.grammar import Space
    from archrank.predictors import Device

SUMMARY = "fit a device to a few measured networks"
EXAMPLES = """
search calibrate gpt2_elastic --hw a100 --serve-batch 8 --csv measured.csv --out my_a100.toml
search calibrate nasbench201 --hw cpu --measure 10 --serve-dtype fp32 --out this_machine.toml
"""
POOL = 1000
"""Sampled sentences that the networks to measure are chosen from."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """SPACE, --hw, --measure or --csv, --export, --out, --serve-batch, --serve-dtype, --seed."""
    add_space(parser)
    parser.add_argument("--hw", required=True, metavar="D", help="the device to start from: a name or a .toml profile")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--measure", type=int, metavar="N", help="choose N networks and time them on this machine")
    source.add_argument("--csv", metavar="F", help="measured elsewhere: columns text,latency_ms")
    parser.add_argument("--export", metavar="FILE", help="with --measure: write the N sentences to a CSV to fill in")
    parser.add_argument("--out", metavar="FILE", help="the calibrated device (.toml)")
    parser.add_argument("--serve-batch", type=int, default=1, metavar="N", help="batch that was timed (default: 1)")
    parser.add_argument("--serve-dtype", metavar="T", help="dtype (default: bf16 where the device has it, else fp32)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampled networks (default: 0)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Writes the device; the error is on networks left out by turns."""
    from archrank import predictors
    from archrank.search import calibrating
    from archrank.search.calibrating import CalibrationError
    from archrank.search.cli._space import given_space

    if args.serve_batch < 1:
        raise CalibrationError(f"--serve-batch {args.serve_batch}: must be at least 1")
    if args.export and args.csv:
        raise CalibrationError("--export goes with --measure: with --csv there is nothing left to measure")
    if not args.export and not args.out:
        raise CalibrationError("--out is missing: name the .toml file to write, or --export a table to be filled in")
    device = predictors.load(args.hw)
    dtype = args.serve_dtype or ("bf16" if "bf16" in device.dtypes else "fp32")
    device.profile.peak(dtype)
    space = given_space(args)
    if args.csv:
        measured = calibrating.read(Path(args.csv))
    else:
        from archrank.search import measuring

        texts = _chosen(device, space, args.measure, args.serve_batch, dtype, args.seed)
        if args.export:
            calibrating.write(Path(args.export), texts, [None] * len(texts))
            print(f"search calibrate: fill in latency_ms, then --csv {args.export}", file=sys.stderr)
            return _told(args, args.export, None, None)
        measured = calibrating.Measured(tuple(texts), measuring.networks(space, texts, args.serve_batch, dtype))
    fit = calibrating.fitted(device, space, measured, args.serve_batch, dtype, args.csv or "measured here")
    if len(measured.ms) < predictors.FEW:
        print(f"search calibrate: {len(measured.ms)} networks are few: the interval is widened", file=sys.stderr)
    path = predictors.save(fit.device, args.out)
    return _told(args, str(path), *(None if math.isnan(x) else x for x in (fit.mape, fit.spearman)))


def _told(args: argparse.Namespace, path: str, mape: float | None, spearman: float | None) -> int:
    if args.json:
        print_json({"path": path, "mape": mape, "spearman": spearman})
    else:
        figures = "" if mape is None else f": MAPE {mape:.2f} %"
        figures += "" if spearman is None else f", Spearman {spearman:.4f} (cross-validated)"
        print(f"{path}{figures}")
    return 0


def _chosen(device: Device, space: Space, count: int, batch: int, dtype: str, seed: int) -> list[str]:
    """`count` sentences far apart in what the device sees of them."""
    import numpy as np

    from archrank.predictors.choosing import k_center
    from archrank.search.calibrating import CalibrationError, workload_of

    if count < 1:
        raise CalibrationError(f"--measure {count}: must be at least 1")
    drawn = list(space.sample(np.random.default_rng(seed), n=max(POOL, count)))
    texts = list(dict.fromkeys(d.text for d in drawn))
    works = [workload_of(space, text, batch) for text in texts]
    return [texts[i] for i in k_center(device, works, count, dtype)]
