"""Takes the best adapter within a budget home from a finished run: python examples/extract_in_python.py RUN FOLDER."""

from __future__ import annotations

import sys

import archrank as ar


def main(run_folder: str, out: str) -> None:
    """Prints the front, then saves the most accurate adapter of at most 5,000 parameters."""
    run = ar.open(run_folder)
    print(run.table(run.front()))
    trial = run.front().best("accuracy", where="adapter_params <= 5k")
    sub = run.extract(trial)
    sub.save_pretrained(out)
    print(f"trial {trial.id} ({trial.stage}): {sub.adapter_params:,} parameters in {len(sub.ranks)} modules -> {out}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
