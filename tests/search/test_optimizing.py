"""`archrank.optimize`: any function, with failures, hangs, kills, constraints, workers and resumption."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

import archrank as ar
from archrank import grammar
from archrank.grammar import Derivation, Space
from archrank.search.config import ConfigError
from archrank.search.errors import NothingFeasible
from archrank.search.results import open_run
from archrank.search.run import resume
from archrank.search.storage import LockError
from archrank.search.study import StudyError

TEXT = (
    'start: loop loop loop\nloop: "tile" "(" SIZE "," ORDER ")" -> tiled\n | "unroll" "(" ORDER ")" -> unrolled\n'
    ' | "plain" -> plain\nSIZE: "8" | "16" | "32" | "64"\nORDER: "1" | "3" | "5"\n%ignore /\\s+/\n'
)
OBJECTIVES = ["error:min", "latency_ms:min"]


def space() -> Space:
    return grammar.loads(TEXT)


def evaluate(d: Derivation) -> dict[str, float]:
    n = sum(int(word) for word in "".join(c if c.isdigit() else " " for c in d.text).split())
    return {"error": 1 / (1 + n) + (zlib.crc32(d.text.encode()) % 97) / 1000, "latency_ms": 1.0 + n / 10}


def kind(text: str) -> int:
    return zlib.crc32(text.encode()) % 10


def hazard(d: Derivation) -> dict[str, float]:
    match kind(d.text):
        case 0:
            raise RuntimeError("the device is on fire")
        case 1:
            time.sleep(100)
        case 2:
            return {"error": math.nan, "latency_ms": 1.0}
        case 3:
            return {"error": 1.0, "latency_ms": math.inf}
        case 4:
            os._exit(7)
    return evaluate(d)


def run(trials: int = 30, seed: int = 0, function=evaluate, strategy: str = "nsga2", **more):
    return ar.optimize(space(), function, OBJECTIVES, strategy=strategy, trials=trials, seed=seed, **more)


def told(found) -> list[tuple[object, ...]]:
    return [(t.id, t.text, dict(t.values), t.state) for t in sorted(found.trials, key=lambda t: t.id)]


def test_the_folder_is_a_run(tmp_path: Path) -> None:
    found = run(40, out=tmp_path / "r", strategy="surrogate")
    assert len(found.trials) == len({t.key for t in found.trials}) == 40
    again = ar.open(tmp_path / "r")
    assert told(again) == told(found)
    assert again.finished
    assert [t.id for t in again.front()] == [t.id for t in found.front()]
    assert "trials: best error" in again.verdict
    assert "sentence" in again.table(again.front())
    page = (tmp_path / "r" / "report.html").read_text()
    assert "archrank.optimize" in page
    assert told(run(40, strategy="surrogate")) == told(found)


def test_a_longer_search_goes_on_where_the_shorter_ended(tmp_path: Path) -> None:
    run(17, out=tmp_path / "r")
    calls: list[str] = []

    def counted(d: Derivation) -> dict[str, float]:
        calls.append(d.text)
        return evaluate(d)

    found = run(40, out=tmp_path / "r", function=counted)
    assert len(calls) == 23
    assert told(found) == told(run(40))


@pytest.mark.parametrize("workers", [1, 3])
def test_failures_are_recorded(workers: int) -> None:
    began = time.monotonic()
    found = run(30, seed=2, function=hazard, trial_timeout=1, workers=workers)
    assert len(found.trials) == 30
    reasons = {kind(t.text): t.reason or "" for t in found.trials if t.state == "failed"}
    assert {kind(t.text) < 5 for t in found.trials if t.state == "failed"} == {True}
    assert {kind(t.text) < 5 for t in found.trials if t.state == "done"} == {False}
    expected = {
        0: "RuntimeError: the device is on fire",
        1: "no answer within 1 s (trial_timeout)",
        2: "error is nan",
        3: "latency_ms is inf",
        4: "ended with exit code 7",
    }
    assert all(expected[k] in reason for k, reason in reasons.items())
    assert {1, 4} <= set(reasons)
    hung = sum(kind(t.text) == 1 for t in found.trials)
    assert time.monotonic() - began < 15 + 4 * hung


def test_workers_do_not_change_the_search() -> None:
    """Batches are functions of the trials before them, not of who answers first."""

    def slower(d: Derivation) -> dict[str, float]:
        time.sleep((zlib.crc32(d.text.encode()) % 7) / 200)
        return evaluate(d)

    found = run(24, function=slower, workers=3)
    assert told(found) == told(run(24, function=evaluate, workers=3))
    assert len({t.key for t in found.trials}) == 24


def test_the_end_of_a_space() -> None:
    single = grammar.loads('start: "a" -> one | "b" -> two\n')
    found = ar.optimize(single, lambda d: {"error": float(len(d.text))}, "error:min", trials=10)
    assert sorted(t.text for t in found.trials) == ["a", "b"]


def test_a_constraint_that_nobody_meets(tmp_path: Path) -> None:
    with pytest.raises(
        NothingFeasible, match=r"none of 20 trials meets latency_ms <= 0.5; the nearest: trial \d+"
    ) as e:
        run(20, where="latency_ms <= 0.5", out=tmp_path / "r")
    found = open_run(tmp_path / "r")
    best = min(found.trials, key=lambda t: (t.values["latency_ms"], t.id))
    assert f"trial {best.id} (" in str(e.value)
    assert {t.state for t in found.trials} == {"infeasible"}


def test_start_with_known_sentences(tmp_path: Path) -> None:
    first = run(20, out=tmp_path / "a")
    texts = [t.text for t in first.front()]
    again = run(len(texts) + 3, seed=9, start=tmp_path / "a")
    assert [t.text for t in again.trials][: len(texts)] == texts
    listed = run(5, seed=9, start=["plain plain plain", "plain plain plain", "unroll(3) plain plain"])
    known = [space().parse(text).text for text in ("plain plain plain", "unroll(3) plain plain")]
    assert [t.text for t in listed.trials][:2] == known
    assert len({t.key for t in listed.trials}) == 5


@pytest.mark.parametrize(
    ("more", "error", "part"),
    [
        ({"workers": 0}, ConfigError, "workers=0: must be at least 1"),
        ({"trial_timeout": 0}, ConfigError, "--trial-timeout 0: must be above 0"),
        ({"storage": "study.db"}, ConfigError, "--storage study.db: is no URL; write sqlite:///study.db"),
        ({"start": ["sideways"]}, ConfigError, "start: 'sideways' is no sentence of"),
        ({"function": lambda d: 3}, ConfigError, "evaluate() gave 3; it gives a dict of numbers by name"),
        ({"function": lambda d: 3, "workers": 2}, ConfigError, "evaluate() gave 3; it gives a dict"),
        ({"function": lambda d: {"error": 1.0}}, StudyError, "no value 'latency_ms' told"),
        ({"function": lambda d: {"error": "low", "latency_ms": 1}}, StudyError, "error must be a number, not 'low'"),
    ],
)
def test_bad_arguments(more, error, part) -> None:
    with pytest.raises(error) as e:
        run(3, **more)
    assert part in str(e.value)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    run(3, out=tmp_path / "r")
    with pytest.raises(ConfigError, match="was begun with seed 0, not 1; choose another folder"):
        run(3, seed=1, out=tmp_path / "r")
    with pytest.raises(ConfigError, match="was begun with strategy 'nsga2', not 'random'"):
        run(3, strategy="random", out=tmp_path / "r")
    with pytest.raises(ConfigError, match=r"was made by archrank\.optimize, whose function is not kept"):
        resume(tmp_path / "r")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file; give a folder"):
        run(3, out=tmp_path / "file")


PROGRAM = """
import sys, time
sys.path.insert(0, {folder!r})
from test_optimizing import run, evaluate
def slow(d):
    with open({calls!r}, "a") as f: f.write(d.text + "\\n")
    time.sleep(.01)
    return evaluate(d)
if __name__ == "__main__":
    run({trials}, seed=5, function=slow, strategy="surrogate", out=sys.argv[1], workers={workers})
"""


def killed(tmp_path: Path, kills: int, workers: int, trials: int = 30) -> None:
    """Kills a search at random moments, then lets it end: the trials and the front of one that nothing disturbed."""
    rng = random.Random(kills)
    whole, broken, calls = tmp_path / "whole", tmp_path / "broken", tmp_path / "calls"
    code = PROGRAM.format(folder=str(Path(__file__).parent), calls=str(calls), trials=trials, workers=workers)
    call = [sys.executable, "-c", code]
    subprocess.run([*call, str(whole)], check=True, capture_output=True)
    assert len(calls.read_text().splitlines()) == trials
    calls.unlink()
    for _ in range(kills):
        process = subprocess.Popen(
            [*call, str(broken)], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        log, wanted = broken / "trials.jsonl", rng.randrange(trials)
        for _ in range(1500):
            if process.poll() is not None or (log.exists() and log.read_bytes().count(b"\n") > wanted):
                break
            time.sleep(0.01)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run([*call, str(broken)], check=True, capture_output=True)
    a, b = open_run(whole), open_run(broken)
    assert told(a) == told(b)
    assert [t.id for t in a.front()] == [t.id for t in b.front()]
    assert len(calls.read_text().splitlines()) <= trials + kills * workers


def test_killed_and_resumed(tmp_path: Path) -> None:
    killed(tmp_path, 5, 1)


@pytest.mark.slow
def test_killed_often(tmp_path: Path) -> None:
    killed(tmp_path, 50, 1)


@pytest.mark.slow
def test_killed_with_workers(tmp_path: Path) -> None:
    killed(tmp_path, 10, 3)


def test_two_writers(tmp_path: Path) -> None:
    def nested(d: Derivation) -> dict[str, float]:
        with pytest.raises(LockError, match="is at work there"):
            run(3, out=tmp_path / "r")
        return evaluate(d)

    assert len(run(2, out=tmp_path / "r", function=nested).trials) == 2


def test_a_line_cut_off(tmp_path: Path) -> None:
    run(20, out=tmp_path / "r")
    log = tmp_path / "r" / "trials.jsonl"
    kept = [line for line in log.read_bytes().splitlines(keepends=True) if b'"event"' not in line]
    log.write_bytes(b"".join(kept[:11]) + kept[11][:40])
    found = run(20, out=tmp_path / "r")
    assert told(found) == told(run(20))
    assert "line 12 of the log is left out" in found.warnings[0]


def test_a_clock_that_goes_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    at = [1e9]

    def clock() -> float:
        at[0] -= 100
        return at[0]

    monkeypatch.setattr(time, "time", clock)
    assert told(run(20)) == told(run(20))


def test_many_trials(tmp_path: Path) -> None:
    import tracemalloc

    run(3, out=tmp_path / "r", strategy="random")
    log = tmp_path / "r" / "trials.jsonl"
    model = json.loads(log.read_text().splitlines()[1])
    rng = np.random.default_rng(0)
    with log.open("a") as file:
        for i in range(20_000):
            values = {"error": rng.random(), "latency_ms": rng.random()}
            trial = {**model, "id": 100 + i, "text": f"{i:060}", "key": f"{i:032}", "values": values}
            file.write(json.dumps(trial) + "\n")
    tracemalloc.start()
    found = open_run(tmp_path / "r")
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(found.trials) == 20_003
    assert used / len(found.trials) < 2000
    assert 3 <= len(found.front()) < 200
