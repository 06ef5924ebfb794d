"""Trials in an Optuna storage: the same values, a storage that is away, the dashboard."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import optuna
import pytest

import archrank as ar
from archrank import grammar
from archrank.search import mirror as mirroring
from archrank.search.mirror import Mirror
from archrank.search.study import Study

TEXT = 'start: site site\nsite: "r" RANK -> site\nRANK: "1" | "2" | "4" | "8"\n'


def evaluate(d):
    a, b = (int(c) for c in d.text if c.isdigit())
    return {"error": 1 / (1 + a + 2 * b), "gain": a + b}


def search(url: str, trials: int = 12, **more):
    return ar.optimize(
        grammar.loads(TEXT), evaluate, ["error:min", "gain:max"], strategy="random", trials=trials, storage=url, **more
    )


def theirs(url: str) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=url)


def test_the_same_trials_and_front(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    run = search(url, where="gain <= 9")
    study = theirs(url)
    assert [d.name for d in study.directions] == ["MINIMIZE", "MAXIMIZE"]
    assert study.metric_names == ["error", "gain"]
    mine = {t.id: (t.values["error"], t.values["gain"]) for t in run.trials}
    assert {t.user_attrs["archrank_id"]: tuple(t.values) for t in study.trials} == mine
    assert sorted(tuple(t.values) for t in study.best_trials) == sorted(mine[t.id] for t in run.front())
    assert study.trials[0].params == {"RANK.0": run.trials[0].text[1], "RANK.1": run.trials[0].text[3]}
    assert any(t.state == "infeasible" for t in run.trials)


def test_a_resumed_search_copies_what_is_missing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    search(None, 5, out=tmp_path / "r")
    search(url, 9, out=tmp_path / "r")
    search(url, 12, out=tmp_path / "r")
    assert sorted(t.user_attrs["archrank_id"] for t in theirs(url).trials) == list(range(12))


def test_away_at_first_and_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, tries, notes = f"sqlite:///{tmp_path / 'study.db'}", [0], []
    honest = mirroring._storage

    def flaky(asked: str) -> object:
        tries[0] += 1
        if tries[0] < 3:
            raise ConnectionError("no route to host")
        return honest(asked)

    monkeypatch.setattr(mirroring, "_storage", flaky)
    copied = mirroring._Target.copy

    def broken(self, trial) -> None:
        if trial.id == 4 and tries[0] == 3:
            raise ConnectionError("connection lost")
        copied(self, trial)

    monkeypatch.setattr(mirroring._Target, "copy", broken)
    study = Study(grammar.loads(TEXT), ["error:min", "gain:max"], "random")
    with Mirror(url, study, "x", notes.append) as mirror:
        for d in study.ask(10):
            mirror.add(study.tell(d, evaluate(d)))
    assert len(theirs(url).trials) == 10
    assert tries[0] == 4
    where = f"sqlite:///{tmp_path}/study.db"
    assert notes == [
        f"--storage: {where} cannot be reached (ConnectionError: no route to host); the search goes on",
    ]


def test_away_for_good() -> None:
    notes: list[str] = []
    study = Study(grammar.loads(TEXT), ["error:min", "gain:max"], "random")
    began = time.monotonic()
    with Mirror("sqlite:////nowhere/at/all/study.db", study, "x", notes.append, last_wait=1.0) as mirror:
        for d in study.ask(3):
            mirror.add(study.tell(d, evaluate(d)))
    assert time.monotonic() - began < 10
    assert "cannot be reached" in notes[0]
    assert notes[-1] == "--storage: 3 trials are not copied; the storage did not answer. The next session catches up"


def test_no_password_is_shown() -> None:
    study = Study(grammar.loads(TEXT), ["error:min", "gain:max"], "random")
    assert Mirror("mysql://me:secret@host/db", study, "x", print)._shown() == "mysql://host/db"


def test_a_journal(tmp_path: Path) -> None:
    search(f"journal://{tmp_path / 'journal.log'}", 4)
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal.log"))
    storage = optuna.storages.JournalStorage(backend)
    assert len(optuna.load_study(study_name=None, storage=storage).trials) == 4


@pytest.mark.slow
@pytest.mark.skipif(find_spec("optuna_dashboard") is None, reason="optuna-dashboard is not installed")
def test_the_dashboard_shows_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    search(url)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = f"import sys; sys.argv = ['d', {url!r}, '--port', '{port}']; from optuna_dashboard._cli import main; main()"
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies", timeout=5).read().decode()
                break
            except OSError:
                time.sleep(0.2)
        assert "archrank" in page
    finally:
        server.kill()
        server.wait()
