"""What a run survives: kill -9, SIGTERM, Ctrl-C, a second process, a full disk, a loss that is no number, a limit."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import archrank as ar
from archrank.search import rank_run, rank_search, storage
from archrank.search.cli import main
from archrank.search.job import Job
from archrank.search.racing import Scored, Scorer
from archrank.search.results import Run
from archrank.search.tuning import Tuned
from archrank.supernet.training import NonFiniteLoss

FLAGS = [
    "--train-steps",
    "60",
    "--trials",
    "18",
    "--finalists",
    "1",
    "--seed",
    "5",
    "--save-minutes",
    "0.005",
    "--race",
    "on",
]
Told = list[tuple[int, str, dict[str, float], str]]


def told(run: Run) -> Told:
    return [(t.id, t.text, dict(t.values), t.stage) for t in run.trials]


def started(out: Path, *more: str) -> subprocess.Popen[str]:
    program = "import sys; from archrank.search.cli import main; sys.exit(main())"
    call = [sys.executable, "-c", program, *(more or ("run", "lora_ranks", *FLAGS, "--out", str(out)))]
    return subprocess.Popen(call, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def wait_for(there: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 60) -> None:
    for _ in range(int(seconds / 0.02)):
        if there() or process.poll() is not None:
            return
        time.sleep(0.02)
    raise AssertionError("the run did not come so far")


def lines(out: Path) -> int:
    log = out / "trials.jsonl"
    return log.read_text().count('"text"') if log.exists() else 0


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "1"
    assert main(["run", "lora_ranks", *FLAGS, "--out", str(out), "--json"]) == 0
    return out


@pytest.fixture(scope="module")
def whole(whole_folder: Path) -> Told:
    """Its trials."""
    return told(ar.open(whole_folder))


def test_three_kills_at_three_phases_change_nothing(tmp_path: Path, whole: Told) -> None:
    out, kept = tmp_path / "r", 0
    places: list[Callable[[], bool]] = [
        (out / "checkpoint.safetensors").exists,  # inside the supernet's training
        lambda: lines(out) >= 9,  # inside the search
        lambda: lines(out) >= 20,  # inside a fine-tune
    ]
    for place in places:
        first = not (out / "config.toml").exists()
        process = started(out) if first else started(out, "resume", str(out))
        wait_for(place, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert lines(out) >= kept
        kept = lines(out)
    assert kept >= 20
    assert main(["resume", str(out), "--json"]) == 0
    assert told(ar.open(out)) == whole


def test_a_second_process_is_refused(tmp_path: Path, whole_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from archrank.search.storage import RunLock\nwith RunLock({str(whole_folder)!r}): input()",
        ],
        stdin=subprocess.PIPE,
        text=True,
    )
    wait_for(
        lambda: (whole_folder / "lock").exists() and str(holder.pid) in (whole_folder / "lock").read_text(), holder
    )
    assert main(["resume", str(whole_folder)]) == 2
    message = capsys.readouterr().err
    assert str(holder.pid) in message
    assert "Traceback" not in message
    holder.communicate("go\n")
    assert main(["resume", str(whole_folder), "--json"]) == 0


def test_sigterm_saves(tmp_path: Path, whole: Told) -> None:
    out = tmp_path / "r"
    process = started(out)
    wait_for(lambda: lines(out) >= 3, process)
    process.terminate()
    _, message = process.communicate(timeout=60)
    assert process.returncode == 75
    assert f"search resume {out}" in message
    assert main(["resume", str(out), "--json"]) == 0
    assert told(ar.open(out)) == whole


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "r"
    process = started(out)
    wait_for(lambda: lines(out) >= 2, process)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"search resume {out}" in message
    assert "Traceback" not in message


def test_a_time_limit_stops_resumable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r"
    assert main(["run", "lora_ranks", *FLAGS, "--max-hours", "0", "--out", str(out)]) == 75
    message = capsys.readouterr().err
    assert "stopped after --max-hours 0.0" in message
    assert f"search resume {out}" in message


def test_a_full_disk_stops_cleanly_and_loses_nothing(
    tmp_path: Path, whole: Told, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r"
    right = os.write

    def full(descriptor: int, data: bytes) -> int:
        if lines(out) >= 7 and b'"text"' in bytes(data):
            right(descriptor, bytes(data)[:20])
            raise OSError(errno.ENOSPC, "No space left on device")
        return right(descriptor, data)

    monkeypatch.setattr(storage.os, "write", full)
    assert main(["run", "lora_ranks", *FLAGS, "--out", str(out)]) == 1
    message = capsys.readouterr().err
    assert f"free some space, then search resume {out}" in message
    assert "Traceback" not in message
    monkeypatch.undo()
    assert lines(out) == 7
    assert main(["resume", str(out), "--json"]) == 0
    assert told(ar.open(out)) == whole


def test_a_full_disk_at_a_checkpoint(
    tmp_path: Path, whole: Told, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from archrank.supernet import checkpoint

    out = tmp_path / "r"

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    assert main(["run", "lora_ranks", *FLAGS, "--out", str(out)]) == 1
    message = capsys.readouterr().err
    assert "No space left on device" in message
    assert "Traceback" not in message
    assert f"search resume {out}" in message
    monkeypatch.undo()
    assert main(["resume", str(out), "--json"]) == 0
    assert told(ar.open(out)) == whole


def test_a_candidate_whose_loss_is_no_number_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Scorer.score
    calls = iter(range(10_000))

    def score(self: Scorer, ranks: Any, hopeless: Any = None) -> Scored:
        found = right(self, ranks, hopeless)
        return replace(found, values={**found.values, "loss": float("nan")}) if next(calls) == 4 else found

    monkeypatch.setattr(Scorer, "score", score)
    out = tmp_path / "r"
    run = ar.run("lora_ranks", out=out, trials=8, train_steps=4, finalists=1)
    failed = [t for t in run.trials if t.state == "failed"]
    assert [t.reason for t in failed] == ["loss is nan"]
    assert sum(t.stage == "inherited" for t in run.trials) == 8
    assert failed[0].id not in {t.id for t in run.front()}


def test_a_supernet_that_diverges_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = Job.loss
    monkeypatch.setattr(Job, "loss", lambda self, logits, batch: right(self, logits, batch) * float("nan"))
    assert main(["run", "lora_ranks", *FLAGS, "--out", str(tmp_path / "r")]) == 1
    message = capsys.readouterr().err
    assert "supernet: the loss became nan at step 10; a smaller --lr is the usual remedy" in message


@pytest.mark.parametrize("at_once", [True, False])
def test_a_fine_tune_that_diverges_fails_its_trial_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    right, together = rank_search.train, rank_run.tune_together
    calls = iter(range(100))

    def train(net: Any, batches: Any, loss: Any, plan: Any, **more: Any) -> float:
        if next(calls) == 1:
            raise NonFiniteLoss(10, float("nan"))
        return right(net, batches, loss, plan, **more)

    def tune_together(*args: Any) -> list[Tuned]:
        tuned = together(*args)
        return [replace(tuned[0], diverged_after=10), *tuned[1:]] if "reranked" in args[5] else tuned

    monkeypatch.setattr(rank_search, "train", train)
    monkeypatch.setattr(rank_run, "tune_together", tune_together)
    if not at_once:
        monkeypatch.setattr(Job, "trains_together", False)
    run = ar.run("lora_ranks", out=tmp_path / "r", trials=12, train_steps=10, finalists=1)
    assert [(t.stage, t.state) for t in run.trials if t.state == "failed"] == [("reranked", "failed")]
    assert any(t.stage == "final" and t.state == "done" for t in run.trials)
