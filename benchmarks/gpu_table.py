"""The table of a GPU result, in Markdown, with what each kernel had to reach to stay.

python benchmarks/gpu_table.py benchmarks/results/gpu-DEVICE-DATE.json [--into README.md]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEEP = {"shrink": 0.6, "grouped choice": 0.75}
"""Shares of bandwidth and of cuBLAS under which a kernel goes."""


def rows(cases: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(case, figure, value, verdict)."""
    found: list[tuple[str, str, str, str]] = []
    for name, told in cases.items():
        if name.startswith("right"):
            found.append(
                (name, "worst error, eps of the terms' sizes", _worst(told), "" if told["all_within_8"] else "WRONG")
            )
        elif "gated_lora" in told:
            ours = told["gated_lora"]["us"]
            found.append((name, "gated LoRA over its floor", f"{ours / told['floor_us']:.2f}", ""))
            found.append(
                (name, "two GEMMs and a mask over gated LoRA", f"{told['gemms_and_mask']['us'] / ours:.2f}", "")
            )
            found.append(
                (name, "loop over candidates over gated LoRA", f"{told['loop_over_candidates']['us'] / ours:.2f}", "")
            )
            if "shrink" in told:
                share = told["shrink_floor_us"] / told["shrink"]["us"]
                found.append((name, "shrink: share of bandwidth", f"{share:.2f}", _verdict("shrink", share)))
            share = told["base"]["us"] / told["grouped_choice_linear"]["us"]
            found.append((name, "grouped choice: share of cuBLAS", f"{share:.2f}", _verdict("grouped choice", share)))
        elif "walsh_hadamard" in told:
            share = told["floor_us"] / told["walsh_hadamard"]["us"]
            found.append((name, "share of bandwidth", f"{share:.2f}", ""))
        elif "loop_ms" in told:
            for other in ("loop_ms", "graph_ms"):
                if isinstance(told.get(other), float):
                    ratio = told[other] / told["auto_ms"]
                    found.append((name, f"{other.removesuffix('_ms')} over auto, a candidate", f"{ratio:.2f}", ""))
    return found


def _worst(told: Mapping[str, Any]) -> str:
    return f"{max(v for k, v in told.items() if k != 'all_within_8'):.1f}"


def _verdict(kernel: str, share: float) -> str:
    return "" if share >= KEEP[kernel] else f"below {KEEP[kernel]}: remove the kernel"


BEGIN, END = "<!-- gpu table: made by benchmarks/gpu_table.py -->", "<!-- end of gpu table -->"


def table(result: Mapping[str, Any]) -> str:
    """The machine's line and the table."""
    machine, versions = result["machine"], result["versions"]
    where = (
        f"{machine.get('gpu', machine['processor'])}, torch {versions['torch']}, {result['date']}, {result['commit']}"
    )
    if result.get("small"):
        where += "; tiny shapes, a check of the script and no measurement"
    lines = ["| case | figure | value | |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows(result["cases"])]
    return "\n".join([where, "", *lines])


def put(text: str, told: str) -> str:
    """`text` with the table between its markers; ValueError where it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no place for the table: write {BEGIN} and {END} where it goes")
    return f"{before}{BEGIN}\n\n{told}\n\n{END}{after}"


def main() -> None:
    """Prints the table, or writes it between a file's markers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("--into", type=Path)
    args = parser.parse_args()
    told = table(json.loads(args.result.read_text()))
    if args.into:
        args.into.write_text(put(args.into.read_text(), told))
    else:
        print(told)


if __name__ == "__main__":
    main()
