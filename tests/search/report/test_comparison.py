"""The page of `search compare`, and what it is made from."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import archrank as ar
from archrank import grammar
from archrank.grammar import Derivation
from archrank.search.bench.cells import intervals
from archrank.search.comparing import Comparison, compare, coverage, differences, write_page
from archrank.search.config import ConfigError

TEXT = 'start: site site\nsite: "r" RANK -> site\nRANK: "1" | "2" | "4" | "8"\n'
Read = Callable[[str], dict[str, Any]]


def evaluate(d: Derivation) -> dict[str, float]:
    a, b = (int(c) for c in d.text if c.isdigit())
    return {"error": 1 / (1 + a + 2 * b), "ms": a + b}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    root = tmp_path_factory.mktemp("runs")
    for name, strategy, seed, n in (("a", "random", 0, 6), ("b", "random", 1, 9), ("<c>", "nsga2", 0, 16)):
        ar.optimize(
            grammar.loads(TEXT), evaluate, ["error:min", "ms:min"], strategy, trials=n, seed=seed, out=root / name
        )
    return compare([str(root / name) for name in ("a", "b", "<c>")])


@pytest.fixture(scope="module")
def compared(found: Comparison, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "c.html"
    write_page(path, found)
    return path.read_text(encoding="utf-8")


def test_groups_differ_in_their_seed_alone(found: Comparison) -> None:
    two, one = found.groups
    assert (two.members, one.members) == ((0, 1), (2,))
    assert two.counts[-1] == 6, "evaluations that both have"
    ends = [[found.curves[i][6]] for i in two.members]
    assert [[two.mean[-1]], [two.low[-1]], [two.high[-1]]] == list(intervals(ends))
    assert one.mean == one.low == one.high == tuple(found.curves[2].values())


def test_settings_other_than_the_seed_part_groups(tmp_path: Path) -> None:
    for name, seed, where in (("a", 0, None), ("b", 1, None), ("c", 2, "ms <= 12")):
        ar.optimize(
            grammar.loads(TEXT), evaluate, ["error:min", "ms:min"], "random", trials=6, seed=seed, where=where,
            out=tmp_path / name,
        )  # fmt: skip
    found = compare([str(tmp_path / name) for name in "abc"])
    assert [g.members for g in found.groups] == [(0, 1), (2,)]
    assert [g.name.removeprefix("<text>, random") for g in found.groups] == [", where –", ", where ms <= 12"]
    assert differences(found.runs) == {"where": ["–", "–", "ms <= 12"], "seed": ["0", "1", "2"]}


def test_a_run_counts_once(found: Comparison) -> None:
    path = found.runs[0].path
    with pytest.raises(ConfigError, match=r"a: given twice, which would count one seed as two; give each run once"):
        compare([str(path), str(found.runs[1].path), str(path.parent / "x" / ".." / "a")])


def test_coverage_is_the_share_that_is_dominated(found: Comparison) -> None:
    table = coverage(found)
    assert np.array_equal(np.diag(table), [0, 0, 0]), "no front dominates its own points"
    assert table[0, 2] == table[1, 2] == 0, "the third run saw every candidate"
    values = [[(t.values["error"], t.values["ms"]) for t in run.front()] for run in found.runs]
    beaten = [any(e <= x and m <= y and (e, m) != (x, y) for e, m in values[2]) for x, y in values[0]]
    assert table[2, 0] == np.mean(beaten)


def test_the_page_has_the_house_s_look_and_loads_nothing(compared: str, figures: Read) -> None:
    for name in ("runs", "fronts", "hypervolume", "coverage", "settings"):
        assert f'<section id="{name}">' in compared, name
    assert "default-src 'none'" in compared
    assert "prefers-color-scheme: dark" in compared
    assert not re.findall(r"""<(?:script|link|img)[^>]+(?:src|href)=["'](https?:[^"']+)""", compared)
    assert "&lt;c&gt;" in compared
    assert "<c>" not in compared.split("<script")[0]
    assert set(figures(compared)) == {"fronts", "hypervolume"}
    assert "the area its 95 % interval" in compared
    said = re.findall(r'role="img" aria-label="(.*?)"', compared)
    assert any("95 % interval" in s for s in said)


def test_curves_have_bands_where_there_are_several_runs(found: Comparison, compared: str, figures: Read) -> None:
    data = figures(compared)["hypervolume"]["views"][0]["data"]
    shown = [t for t in data if t.get("name")]
    assert [t["name"].split(", ")[1] for t in shown] == ["random (2 runs)", "nsga2 (1 run)"]
    assert sum(t.get("fill") == "tonexty" for t in data) == 1
    assert shown[0]["y"] == list(found.groups[0].mean)
    fronts = figures(compared)["fronts"]["views"][0]["data"]
    assert [len(t["x"]) for t in fronts] == [len(run.front()) for run in found.runs]
    assert len({t["marker"]["symbol"] for t in fronts}) == 3, "told apart without colour"


def test_one_objective_has_no_fronts(tmp_path: Path, figures: Read) -> None:
    for seed in (0, 1):
        ar.optimize(
            grammar.loads(TEXT), evaluate, ["error:min"], "random", trials=5, seed=seed, out=tmp_path / str(seed)
        )
    write_page(tmp_path / "c.html", compare([str(tmp_path / "0"), str(tmp_path / "1")]))
    page = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert set(figures(page)) == {"hypervolume"}
    assert 'id="fronts"' not in page
