"""What a notebook shows: a run, a front, progress."""

from __future__ import annotations

import re
import sys
from types import ModuleType, SimpleNamespace

import pytest

import archrank as ar
from archrank import grammar
from archrank.search.notebook_progress import Bars, notebook_display
from archrank.search.pareto import ParetoFront
from archrank.search.progress import open_progress

TEXT = 'start: site site\nsite: "r" RANK -> site\nRANK: "1" | "2" | "4" | "8"\n'


class _Shown:
    """An output cell: everything that was shown in it, the last one visible."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.outputs = 0

    def __call__(self, html: str) -> _Shown:
        self.outputs += 1
        self.states.append(html)
        return self

    def update(self, html: str, /) -> None:
        self.states.append(html)


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_bars_are_redrawn_in_one_place_and_not_too_often() -> None:
    shown, clock = _Shown(), _Clock()
    bars = Bars(shown, clock)
    bars.phase("supernet", total=100)
    for step in range(1, 101):
        clock.now += 0.01
        bars.update(step, best=f"loss <{step}")
    bars.note("saved at <step 100>")
    bars.phase("search", total=None, unit="trials")
    clock.now += 2
    bars.update(7, best=0.25, front=3)
    bars.close()
    assert shown.outputs == 1
    assert len(shown.states) < 15
    last = shown.states[-1]
    assert re.findall(r"<progress(.*?)>", last) == [' max="100" value="100"', ""]
    assert "100/100 steps · best loss &lt;100 · took 1.0 s" in last
    assert "7 trials · best 0.25 · front 3 · took 2.0 s" in last
    assert "<div>saved at &lt;step 100&gt;</div>" in last


def test_the_time_left_is_told() -> None:
    shown, clock = _Shown(), _Clock()
    bars = Bars(shown, clock)
    bars.phase("search", total=40, unit="trials", done=10)
    clock.now = 5
    bars.update(20)
    assert "20/40 trials · 10 s left" in shown.states[-1]


def _jupyter(monkeypatch: pytest.MonkeyPatch, shell: object, shown: _Shown) -> None:
    module, display = ModuleType("IPython"), ModuleType("IPython.display")
    module.get_ipython = lambda: shell  # type: ignore[attr-defined]
    display.HTML = lambda html: html  # type: ignore[attr-defined]
    display.display = lambda html, display_id: shown(html)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", display)


def test_progress_goes_to_the_cell_of_a_notebook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = _Shown()
    _jupyter(monkeypatch, SimpleNamespace(kernel=object()), shown)
    with open_progress() as p:
        p.phase("search", total=2, unit="trials")
        p.update(2, best=0.5)
    assert "2/2 trials · best 0.5 · took" in shown.states[-1]
    assert capsys.readouterr() == ("", "")
    with open_progress(enabled=False) as p:
        p.phase("search")
    assert shown.outputs == 1


def test_a_terminal_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    assert notebook_display() is None
    _jupyter(monkeypatch, SimpleNamespace(), _Shown())  # IPython on a terminal: no kernel
    assert notebook_display() is None
    _jupyter(monkeypatch, None, _Shown())
    assert notebook_display() is None


@pytest.fixture(scope="module")
def run() -> ar.search.results.Run:
    def evaluate(d: grammar.Derivation) -> dict[str, float]:
        a, b = (int(c) for c in d.text if c.isdigit())
        return {"error": 1 / (1 + a + 2 * b), "latency_ms": a + b}

    return ar.optimize(grammar.loads(TEXT), evaluate, ["error:min", "latency_ms:min"], "random", trials=16)


def test_a_run_shows_its_front(run: ar.search.results.Run) -> None:
    html = run._repr_html_()
    assert "16/16 trials" in html
    assert html.count("<tr>") == 1 + len(run.front())
    assert re.search(r"<th[^>]*>latency_ms ↓</th>", html)
    assert "<script" not in html


def test_a_front_shows_at_most_twenty_rows_escaped() -> None:
    from archrank.search.objective import parse_objectives
    from archrank.search.trial import Trial

    objectives = parse_objectives(["loss", "params"])
    trials = [Trial(i, f"<b>{i}</b>", str(i), {"loss": i, "params": 30 - i}, "reranked") for i in range(25)]
    html = ParetoFront.of(trials, objectives)._repr_html_()
    assert html.count("<tr>") == 21
    assert "and 5 more" in html
    assert "&lt;b&gt;0&lt;/b&gt;" in html
    assert "re-ranked" in html
    assert "The front is empty" in ParetoFront.of([], objectives)._repr_html_()


def test_a_run_in_memory_has_no_folder_to_name(run: ar.search.results.Run) -> None:
    assert "<b>a search</b>" in run._repr_html_()
