"""The searcher of Ray Tune: by its protocol, and in a Tuner that is stopped and restored."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from archrank import grammar

pytest.importorskip("ray.tune")

from archrank.search.ray import Searcher
from archrank.search.ray.searcher import SearcherError

SPACE = 'start: site site\nsite: RANK\nRANK: "1" | "2" | "4"\n%ignore / /\n'
OBJECTIVES = ["error:min", "weights:min"]
EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "tune_script.py"


def searcher(**more: object) -> Searcher:
    return Searcher(grammar.loads(SPACE), objectives=OBJECTIVES, strategy="random", seed=1, **more)  # type: ignore[arg-type]


def result(text: str) -> dict[str, float]:
    a, b = (int(c) for c in text.split())
    return {"error": 1 / (a + 2 * b), "weights": float(a + b), "time_total_s": 2.5, "training_iteration": 1}


def test_the_whole_space_once_and_then_finished() -> None:
    s, texts = searcher(), []
    while (config := s.suggest(f"t{len(texts)}")) != Searcher.FINISHED:
        assert isinstance(config, dict)
        texts.append(config["text"])
        s.on_trial_complete(f"t{len(texts) - 1}", result(config["text"]))
    assert len(texts) == len(set(texts)) == 9
    assert {t.text: t.values["error"] for t in s.study.trials} == {x: result(x)["error"] for x in texts}
    assert s.study.trials[0].seconds == 2.5


def test_an_error_is_a_failed_trial() -> None:
    s = searcher()
    first = s.suggest("a")
    assert isinstance(first, dict)
    s.on_trial_complete("a", error=True)
    s.on_trial_complete("a", result(first["text"]))  # Tune says it once; a second time changes nothing
    assert [(t.text, t.state) for t in s.study.trials] == [(first["text"], "failed")]
    assert "error.txt" in str(s.study.trials[0].reason)


def test_in_batches_the_order_of_ends_does_not_matter() -> None:
    seen = []
    for order in (1, -1):
        s, told = searcher(batch=3), []
        for _ in range(2):
            configs = [(f"{len(told) + i}", s.suggest(f"{len(told) + i}")) for i in range(3)]
            assert s.suggest("too early") is None
            for name, config in configs[::order]:
                assert isinstance(config, dict)
                s.on_trial_complete(name, result(config["text"]))
            told += [c["text"] for _, c in configs if isinstance(c, dict)]
        seen.append(told)
    assert seen[0] == seen[1]


def test_save_and_restore(tmp_path: Path) -> None:
    s = searcher()
    a, b = s.suggest("a"), s.suggest("b")
    assert isinstance(a, dict)
    assert isinstance(b, dict)
    s.on_trial_complete("a", result(a["text"]))
    s.save(str(tmp_path / "state.json"))
    json.loads((tmp_path / "state.json").read_text())  # data, nothing that runs
    again = searcher()
    again.restore(str(tmp_path / "state.json"))
    again.on_trial_complete("b", result(b["text"]))
    assert [(t.id, t.text) for t in again.study.trials] == [(0, a["text"]), (1, b["text"])]
    rest = {c["text"] for i in range(7) if isinstance(c := again.suggest(str(i)), dict)}
    assert len(rest | {a["text"], b["text"]}) == 9


def test_a_state_of_another_schema(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    file.write_text('{"schema": 7}')
    with pytest.raises(SearcherError) as told:
        searcher().restore(str(file))
    assert str(told.value) == f"{file}: schema 7; this program reads 1"


def test_what_does_not_fit_is_told() -> None:
    s = searcher()
    with pytest.raises(SearcherError, match=r"metric='error', mode='min'\): leave both out.*error, weights"):
        s.set_search_properties("error", "min", {})
    with pytest.raises(SearcherError, match="param_space has 'lr': leave it out"):
        s.set_search_properties(None, None, {"lr": 0.1})
    s.suggest("a")
    with pytest.raises(
        SearcherError, match=r"tune\.report gave no 'weights', which the searcher needs; it gave: error"
    ):
        s.on_trial_complete("a", {"error": 0.5})
    with pytest.raises(SearcherError, match="batch 0: must be at least 1"):
        searcher(batch=0)


@pytest.mark.ray
@pytest.mark.slow
def test_the_example_runs_and_is_restored(tmp_path: Path) -> None:
    for samples in ("6", "6"):  # the second time it restores and finds everything done
        call = [sys.executable, str(EXAMPLE), "--out", str(tmp_path), "--samples", samples]
        done = subprocess.run(call, check=False, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert "6 candidates" in done.stdout
