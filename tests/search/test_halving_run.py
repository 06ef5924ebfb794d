"""A run that halves, killed and resumed: rungs are in the log, so that who went up goes up once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import archrank as ar
from archrank.search.cli import main

SPACE = """//@ input = 1x8x8
start: a "," a  -> seq
a: "l" "(" WIDTH ")"  -> linear
WIDTH: "2" | "3" | "4" | "8"
%ignore / /
"""
FLAGS = {
    "--data": "digits", "--evaluate": "train", "--trials": "9", "--train-steps": "90", "--finalists": "1",
    "--seed": "4", "--batch-size": "8", "--objective": "loss", "--strategy": "random",
}  # fmt: skip  # rungs of 10, 30 and 90 steps
PROGRAM = "import sys; from archrank.search.cli import main; sys.exit(main())"


def told(out: Path) -> tuple[list[tuple[int, str, str, dict[str, float]]], list[tuple[int, int]]]:
    """The trials, and who went up to which rung, in order."""
    run = ar.open(out)
    rungs = [(e["trial"], e["rung"]) for e in run.contents.events if e.get("event") == "rung"]
    return [(t.id, t.text, t.stage, dict(t.values)) for t in run.trials], rungs


def rung_lines(out: Path) -> int:
    log = out / "trials.jsonl"
    if not log.exists():
        return 0
    lines = log.read_text().splitlines()[:-1]
    return sum(json.loads(line).get("event") == "rung" for line in lines)


def test_killed_in_the_middle_of_the_rungs(tmp_path: Path) -> None:
    (tmp_path / "small.lark").write_text(SPACE)
    flags = [str(tmp_path / "small.lark"), *(part for flag in FLAGS.items() for part in flag), "--objective", "params"]
    assert main(["run", *flags, "--out", str(tmp_path / "whole")]) == 0
    trials, rungs = told(tmp_path / "whole")
    assert len(rungs) == len(set(rungs)) >= 3
    assert [stage for _, _, stage, _ in trials].count("reranked") >= 1
    out = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "run", *flags, "--out", str(out)], stderr=subprocess.DEVNULL
    )
    while rung_lines(out) < 2 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert 2 <= rung_lines(out) <= len(rungs)
    assert not any(
        json.loads(line).get("event") == "end" for line in (out / "trials.jsonl").read_text().splitlines()[:-1]
    )
    assert main(["resume", str(out)]) == 0
    assert told(out) == (trials, rungs)
