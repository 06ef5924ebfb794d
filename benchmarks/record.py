"""How a benchmark's result is kept: one JSON file with the claim, the figures, the machine, the versions, the date,
the command.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

__all__ = ["Cells", "interval", "machine", "write_result"]


def machine() -> dict[str, object]:
    """The processor by its own name, cores, threads torch uses; the GPU where there is one."""
    import torch

    model = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next(
            (line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")),
            model,
        )
    found: dict[str, object] = {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def interval(values: Sequence[float], level: float = 0.95, draws: int = 10_000) -> list[float]:
    """Percentile bootstrap interval of the mean; the seeds are the unit."""
    x = np.asarray(values, dtype=float)
    means = np.random.default_rng(0).choice(x, (draws, len(x))).mean(1)
    return [float(np.quantile(means, q)) for q in ((1 - level) / 2, (1 + level) / 2)]


def arguments(description: str | None) -> argparse.Namespace:
    """`--seed` and `--out` of a benchmark; the first line of its docstring describes it."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


class Cells:
    """The measured cells of a benchmark, kept beside its result so that an interrupted one goes on where it was."""

    def __init__(self, out: Path) -> None:
        self.file = out.with_suffix(".cells.jsonl")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.done = {line["cell"]: line["value"] for line in map(json.loads, lines)}

    def get(self, cell: str, measure: object) -> object:
        """The cell's value, measured now if it is not known: `measure()`."""
        if cell not in self.done:
            value = measure()  # type: ignore[operator]
            with self.file.open("a") as file:
                file.write(json.dumps({"cell": cell, "value": value}) + "\n")
            self.done[cell] = value
        return self.done[cell]

    def all(self, cases: Mapping[str, object]) -> dict[str, object]:
        """Every case by its name, each printed once it is known."""
        found = {}
        for name, measure in cases.items():
            found[name] = self.get(name, measure)
            print(name, found[name], flush=True)
        return found


def write_result(out: Path, result: Mapping[str, object]) -> None:
    """Adds machine, versions, commit, date and command, and writes the file."""
    from archrank.search.summary import versions

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    command = "python " + " ".join([Path(sys.argv[0]).as_posix().split("/benchmarks/")[-1], *sys.argv[1:]])
    full = {
        **result,
        "machine": machine(),
        "versions": versions(),
        "commit": commit,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": command,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(full, indent=1) + "\n")
