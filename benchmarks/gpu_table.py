"""The table of a GPU result, in Markdown, with what each kernel had to reach to stay.

python benchmarks/gpu_table.py benchmarks/results/gpu-DEVICE-DATE.json
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


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("result", type=Path)
    result = json.loads(parser.parse_args().result.read_text())
    machine, versions = result["machine"], result["versions"]
    print(
        f"{machine.get('gpu', machine['processor'])}, torch {versions['torch']}, {result['date']}, {result['commit']}\n"
    )
    print("| case | figure | value | |\n|---|---|---|---|")
    for row in rows(result["cases"]):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
