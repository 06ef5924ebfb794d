"""`search bench` on small tables, and the stand-in for a table that is too large."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from archrank import grammar, spaces
from archrank.search.bench.cells import budgets, run_cell
from archrank.search.bench.ridge import COUNT, Ridge
from archrank.search.bench.task import from_references, from_table
from archrank.search.cli import main
from archrank.search.config import ConfigError
from archrank.search.pareto import non_dominated

TEXT = 'start: site site site\nsite: "r" RANK -> site\nRANK: "1" | "2" | "4" | "8"\n%ignore /\\s+/\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A space of 64 sentences and its table."""
    (tmp_path / "toy.lark").write_text(TEXT)
    rng = np.random.default_rng(0)
    with (tmp_path / "toy.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "acc", "ms"])
        for ranks in itertools.product((1, 2, 4, 8), repeat=3):
            table.writerow(
                [" ".join(f"r{r}" for r in ranks), 50 + sum(ranks) + rng.random(), 1 + ranks[0] + 0.1 * sum(ranks)]
            )
    objectives = [
        {"name": "error", "column": "acc", "value": "100 - column", "direction": "min"},
        {"name": "ms", "column": "ms", "value": "column", "direction": "min", "unit": "ms"},
    ]
    two = {"table": "toy.csv", "space": "toy", "objectives": objectives, "reference": [49, 12], "ideal": [25, 2]}
    one = {"table": "toy.csv", "space": "toy", "objectives": objectives[:1], "optimum": 25.0}
    (tmp_path / "refs.json").write_text(json.dumps({"tasks": {"two": {**two, "hypervolume_star": 0.5}, "one": one}}))
    return tmp_path


def test_the_whole_table_is_the_true_front(folder: Path) -> None:
    task = from_table(folder / "toy.csv", str(folder / "toy.lark"), ["acc:max", "ms:min"])
    cell = run_cell(task, "random", 0, 100)
    assert cell.ended == 64
    assert cell.scores[100] == pytest.approx(1.0)
    assert list(cell.scores) == budgets(100) == [10, 20, 50, 100]
    assert np.all(np.diff(list(cell.curve.values())) >= 0)
    rows = list(csv.DictReader((folder / "toy.csv").read_text().splitlines()))
    y = np.array([[-float(r["acc"]), float(r["ms"])] for r in rows])
    assert task.score(y[non_dominated(y)]) == pytest.approx(1.0)
    assert task.score(y[:1]) < 1


def test_regret(folder: Path) -> None:
    task = from_table(folder / "toy.csv", str(folder / "toy.lark"), ["acc:max"])
    cell = run_cell(task, "local_search", 0, 64)
    assert task.measure == "regret"
    assert cell.scores[64] == pytest.approx(0.0)
    assert cell.scores[10] >= cell.scores[20] >= 0


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "bench",
        str(folder / "toy.lark"),
        "--references",
        str(folder / "refs.json"),
        "--seeds",
        "2",
        "--trials",
        "30",
    ]
    both = ["--strategy", "nsga2", "--strategy", "random"]
    assert main([*flags, "--task", "two", *both, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["nsga2", "random"]
    assert all(list(v["hypervolume_ratio"]) == ["10", "20", "30"] for v in found.values())
    assert all(len(of) == 2 for v in found.values() for of in v["hypervolume_ratio"].values())
    assert main([*flags, "--task", "one", *both, "--plot", str(folder / "p.html")]) == 0
    out = capsys.readouterr().out
    assert "one: regret (0 is the optimum), mean over 2 seeds" in out
    page = (folder / "p.html").read_text()
    assert "Plotly.newPlot" in page
    assert 'src="http' not in page


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (
            ["--task", "three", "--references", "refs.json"],
            "--task three: refs.json has no such task; ",
        ),
        (["--references", "refs.json"], "--task is missing: refs.json has two, one"),
        (["--task", "two"], "--task two: --references is missing"),
        ([], "--table or --references is missing"),
        (["--table", "toy.csv"], "--objective is missing: name columns of toy.csv"),
        (
            ["--table", "toy.csv", "--objective", "accc:max"],
            "no column 'accc'; did you mean acc? ",
        ),
        (["--table", "none.csv", "--objective", "acc:max"], "--table none.csv: cannot be read as a table"),
        (["--table", "toy.csv", "--objective", "text:max"], "is no number"),
        (["--table", "half.csv", "--objective", "acc:max"], "half.csv: has 2 of 64 sentences of toy"),
        (["--table", "toy.csv", "--objective", "acc:max", "--seeds", "0"], "--seeds 0: must be at least 1"),
        (["--table", "toy.csv", "--objective", "acc:max", "--strategy", "nsga"], "did you mean nsga2?"),
        (["--references", "toy.csv"], "--references toy.csv: is no JSON"),
    ],
)
def test_bad_input(
    folder: Path, flags: list[str], part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    (folder / "half.csv").write_text("text,acc\nr1 r1 r1,3\nr1 r1 r2,4\n")
    assert main(["bench", "toy.lark", *flags]) == 2
    assert part in capsys.readouterr().err


def test_ridge_features() -> None:
    """Each coefficient is read where the statement puts it."""
    space = spaces.load("gpt2_elastic")
    blocks = ",".join(["block(4,2)"] + ["block(12,4)"] * 9)
    text = space.parse(f"gpt2(embed(384),biased(stack10({blocks})),head)").text
    read = Ridge(np.eye(COUNT), np.zeros(COUNT))(text)
    ones = {i for i, v in enumerate(read) if v == 1}
    base = 77
    assert ones == {base, base + 36} | {base + 24 + i for i in range(1, 10)} | {base + 60 + i for i in range(1, 10)} | {
        base + 72, base + 75, base + 76,
    }  # fmt: skip
    h, m = 4 + 9 * 12, 2 + 9 * 4
    assert read[231 + 5 : 231 + 10] == [h, m, h * h, m * m, h * m]
    with pytest.raises(ConfigError, match="has 3 coefficients; the features here are 246"):
        Ridge.from_json({"coefficients": {"a": [1, 2, 3]}, "intercept": {"a": 0}}, ["a"])


@pytest.mark.shared_data
def test_random_search_as_published(shared_data: Path) -> None:
    task = from_references(shared_data / "nas" / "references.json", "gpt2_small_a100", "gpt2_elastic", None)
    scores = [run_cell(task, "random", seed, 50).scores[50] for seed in range(5)]
    assert np.mean(scores) == pytest.approx(0.82, abs=0.03)
    assert grammar.load("nasbench201").literal().is_literal


def test_how_soon_and_how_often_constraints_are_met(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["bench", str(folder / "toy.lark"), "--table", str(folder / "toy.csv"), "--strategy", "random"]
    call += ["--objective", "acc:max", "--objective", "ms:min", "--seeds", "3", "--trials", "64"]
    assert main([*call, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["random"]) == {"hypervolume_ratio"}
    assert main([*call, "--where", "ms <= 2.7", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["random"]
    with (folder / "toy.csv").open() as file:
        met = sum(float(row["ms"]) <= 2.7 for row in csv.DictReader(file))
    assert 0 < met < 64
    assert told["feasible_share"] == [met / 64] * 3  # the whole space, once
    assert all(1 <= first <= 65 - met for first in told["first_feasible"])
    assert all(0 < ratio < 1 for ratio in told["hypervolume_ratio"]["64"])
    assert main([*call, "--where", "ms <= 0"]) == 0
    assert "random: 0.0% of the evaluations meet --where, none in any seed" in capsys.readouterr().out
    one = [*call[:6], "--objective", "acc:max", "--where", "acc >= 60"]
    assert main(one) == 2
    assert "--where acc >= 60: is for a task of several objectives; toy acc has one" in capsys.readouterr().err
