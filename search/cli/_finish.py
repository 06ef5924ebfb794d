"""What `run` and `resume` say at the end."""

from __future__ import annotations

import sys
from dataclasses import asdict

from archrank.search.cli._options import print_json
from archrank.search.results import Run, default_form

__all__ = ["show_outcome"]


def show_outcome(run: Run, *, as_json: bool) -> int:
    """The front and where to go from here; exit code 3 when the front is empty."""
    front = run.front()
    if as_json:
        print_json(
            {
                "run": str(run.path),
                "seconds": round(run.seconds, 3),
                "verdict": run.verdict,
                "configurations": [asdict(s) for s in run.seen],
                "front": [t.to_json() for t in front],
            }
        )
    else:
        print(f"{run.verdict}\n")
        print(run.table(front), end="")
        print(f"\nreport   {run.path / 'report.html'}")
        out = {"torch": "network/", "peft": "adapter/", "merged": "encoder/"}[form := default_form(run)]
        print(f"extract  search extract {run.path} --pick knee --as {form} --out {out}")
    if not len(front):
        print(
            f"search: nothing meets the constraints; see {run.path / 'report.html'} for what was tried", file=sys.stderr
        )
        return 3
    return 0
