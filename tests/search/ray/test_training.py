"""Trainings from nothing as trials of Ray Tune: what one process finds, also after a stop in the middle."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import archrank as ar
from archrank.search.cli import main

pytest.importorskip("ray.tune")
pytestmark = [pytest.mark.ray, pytest.mark.slow]

FLAGS = [
    "nasbench201",
    "--data",
    "digits",
    "--evaluate",
    "train",
    "--trials",
    "4",
    "--train-steps",
    "30",
    "--propose",
    "2",
]
# rungs of 10 and 30 steps
FLAGS += ["--finalists", "1", "--seed", "4", "--objective", "loss", "--objective", "params"]
Told = list[tuple[int, str, str, dict[str, float]]]


def told(out: Path) -> Told:
    return [(t.id, t.text, t.stage, dict(t.values)) for t in ar.open(out).trials]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The trials of one process."""
    out = tmp_path_factory.mktemp("here") / "1"
    assert main(["run", *FLAGS, "--out", str(out), "--json"]) == 0
    return told(out)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_and_resumed(tmp_path: Path, here: Told, number: signal.Signals) -> None:
    out = tmp_path / "r"
    program = "import sys; from archrank.search.cli import main; sys.exit(main())"
    call = [sys.executable, "-c", program, "run", *FLAGS, "--ray", "auto", "--workers", "2", "--out", str(out)]
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    log = out / "trials.jsonl"
    for _ in range(3000):
        if (log.exists() and log.read_text().count('"text"') >= 2) or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(number)
    _, message = process.communicate(timeout=120)
    if number == signal.SIGTERM:
        assert process.returncode == 75, message
        assert f"search resume {out}" in message
    assert 2 <= log.read_text().count('"text"') < len(here)
    again = [sys.executable, "-c", program, "resume", str(out)]
    done = subprocess.run(again, check=False, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert told(out) == here
