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
    from archrank.search.calibrating import Measured
    from archrank.search.servable import Servable

SUMMARY = "fit a device to a few measured networks"
EXAMPLES = """
search calibrate gpt2_elastic --hw a100 --serve-batch 8 --csv measured.csv --out my_a100.toml
search calibrate mobilenetv3 --hw jetson-agx-orin-64gb --measure 20 --serve-dtype fp16 --export kit/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """SPACE, --hw, --measure or --csv, --export, --out, --serve-batch, --serve-seq, --serve-dtype, --seed."""
    add_space(parser)
    parser.add_argument("--hw", required=True, metavar="D", help="the device to start from: a name or a .toml profile")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--measure", type=int, metavar="N", help="choose N networks and time them on this machine")
    source.add_argument("--csv", metavar="F", help="measured elsewhere: columns text,latency_ms")
    parser.add_argument(
        "--export",
        metavar="FOLDER",
        help="with --measure: write the N networks as Python and ONNX, with a script that times them elsewhere",
    )
    parser.add_argument("--out", metavar="FILE", help="the calibrated device (.toml)")
    parser.add_argument("--serve-batch", type=int, metavar="N", help="batch that is timed (default: the CSV's, else 1)")
    parser.add_argument(
        "--serve-seq", type=int, default=128, metavar="N", help="tokens of a text encoder (default: 128)"
    )
    parser.add_argument(
        "--serve-dtype", metavar="T", help="dtype (default: the CSV's, else bf16 where the device has it, else fp32)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampled networks (default: 0)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Writes the device; the error is on networks left out by turns."""
    from archrank import predictors
    from archrank.search import calibrating
    from archrank.search.cli._space import given_space
    from archrank.search.servable import servable

    _check(args)
    device = predictors.load(args.hw)
    measured = calibrating.read(Path(args.csv)) if args.csv else None
    batch, dtype = _served(args, device, measured)
    served = servable(space := given_space(args), batch, getattr(args, "base", None), args.serve_seq)
    if measured is None:
        texts = _chosen(device, space, served, args.measure, dtype, args.seed)
        if args.export:
            return _exported(args, served, texts, batch, dtype)
        from archrank.search import measuring

        measured = calibrating.Measured(tuple(texts), measuring.networks(served, texts, dtype))
    fit = calibrating.fitted(device, served, measured, dtype, args.csv or "measured here")
    if len(measured.ms) < predictors.FEW:
        print(f"search calibrate: {len(measured.ms)} networks are few: the interval is widened", file=sys.stderr)
    path = predictors.save(fit.device, args.out)
    return _told(args, str(path), *(None if math.isnan(x) else x for x in (fit.mape, fit.spearman)))


def _check(args: argparse.Namespace) -> None:
    """What flags alone can say is wrong."""
    from archrank.search.calibrating import CalibrationError

    for flag, value in (
        ("--serve-batch", args.serve_batch),
        ("--serve-seq", args.serve_seq),
        ("--measure", args.measure),
    ):
        if value is not None and value < 1:
            raise CalibrationError(f"{flag} {value}: must be at least 1")
    if args.export and args.csv:
        raise CalibrationError("--export goes with --measure: with --csv there is nothing left to measure")
    if args.export:
        from archrank.search.kits import folder

        return folder.check_folder(Path(args.export))
    if not args.out:
        raise CalibrationError("--out is missing: name the .toml file to write, or --export a kit to measure elsewhere")


def _served(args: argparse.Namespace, device: Device, measured: Measured | None) -> tuple[int, str]:
    """Batch and dtype: of the flags, else of the table, else 1 and bf16 or fp32."""
    from archrank.search.calibrating import CalibrationError

    for flag, given, told in (
        ("--serve-batch", args.serve_batch, measured and measured.batch),
        ("--serve-dtype", args.serve_dtype, measured and measured.dtype),
    ):
        if given is not None and told is not None and given != told:
            raise CalibrationError(
                f"{flag} {given}: {args.csv} was measured at {told}. Leave {flag} out, or measure again"
            )
    usual = "bf16" if "bf16" in device.dtypes else "fp32"
    dtype = args.serve_dtype or (measured and measured.dtype) or usual
    device.profile.peak(dtype)
    return args.serve_batch or (measured and measured.batch) or 1, dtype


def _exported(args: argparse.Namespace, served: Servable, texts: list[str], batch: int, dtype: str) -> int:
    """The kit, and how to go on."""
    from rich.console import Console
    from rich.progress import track

    from archrank.search.kits import folder

    shown = track(texts, "writing networks", console=Console(stderr=True))
    kit = folder.write(Path(args.export), served, shown, args.space, batch, dtype)
    for line in kit.left_out:
        print(f"search calibrate: left out: {line}", file=sys.stderr)
    place = Path(args.export)
    print(
        f"search calibrate: {kit.networks} networks. Run {place / folder.SCRIPT} on the other machine, then "
        f"search calibrate {args.space} --hw {args.hw} --csv {place / 'measured.csv'} --out mine.toml",
        file=sys.stderr,
    )
    return _told(args, args.export, None, None)


def _told(args: argparse.Namespace, path: str, mape: float | None, spearman: float | None) -> int:
    if args.json:
        print_json({"path": path, "mape": mape, "spearman": spearman})
    else:
        figures = "" if mape is None else f": MAPE {mape:.2f} %"
        figures += "" if spearman is None else f", Spearman {spearman:.4f} (cross-validated)"
        print(f"{path}{figures}")
    return 0


def _chosen(device: Device, space: Space, served: Servable, count: int, dtype: str, seed: int) -> list[str]:
    """`count` sentences far apart in what the device sees of them."""
    import numpy as np

    from archrank.predictors.choosing import k_center

    drawn = list(space.sample(np.random.default_rng(seed), n=max(served.pool, count)))
    texts = list(dict.fromkeys(d.text for d in drawn))
    return [texts[i] for i in k_center(device, [served.workload(text) for text in texts], count, dtype)]
