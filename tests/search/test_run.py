"""Whole runs on the embedded base: what they leave, what they promise, what they take home."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import archrank as ar
from archrank.search.candidates import weights_of
from archrank.search.cli import main
from archrank.search.config import ConfigError
from archrank.search.errors import NothingFeasible
from archrank.search.results import Run
from archrank.supernet.base import EMBEDDED
from archrank.supernet.data import digits

TINY = {"train_steps": 20, "trials": 24, "finalists": 2, "seed": 3}


def embedded_hash() -> str:
    return hashlib.sha256(b"".join(p.read_bytes() for p in sorted(EMBEDDED.iterdir()))).hexdigest()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One run that all tests of this file read."""
    before = embedded_hash()
    yield ar.run("lora_ranks", hw="a100", out=tmp_path_factory.mktemp("runs") / "1", **TINY)
    assert embedded_hash() == before, "the base was changed"


def stages(run: Run) -> dict[str, list[Any]]:
    return {s: [t for t in run.trials if t.stage == s] for s in ("inherited", "reranked", "final")}


def test_what_a_run_leaves(run: Run) -> None:
    names = {p.name for p in run.path.iterdir()}
    assert {"config.toml", "trials.jsonl", "space.lark", "supernet.safetensors", "report.html", "adapters"} <= names
    assert not {n for n in names if "checkpoint" in n or n.endswith(".new")}
    head, *lines = [json.loads(line) for line in (run.path / "trials.jsonl").read_text().splitlines()]
    assert head["schema"] == 1
    assert head["seed"] == 3
    assert {"torch", "peft", "transformers", "archrank"} <= set(head["versions"])
    trials = [line for line in lines if "text" in line]
    assert all({"id", "text", "values", "stage", "state", "seconds"} <= set(t) for t in trials)
    assert len({t["id"] for t in trials}) == len(trials)
    assert (run.path / "space.lark").read_text() == ar.spaces.path("lora_ranks").read_text()


def test_stages_and_their_parents(run: Run) -> None:
    found = stages(run)
    finals = [t for t in found["final"] if t.parent is not None]
    references = [t for t in found["final"] if t.parent is None]
    assert [len(found["inherited"]), len(found["reranked"]), len(finals)] == [24, 4, 2]
    assert [len(set(run.ranks(t).values())) for t in references] == [1] * len(references), "uniform ranks"
    assert {16} in [set(run.ranks(t).values()) for t in found["final"]], "r_max, found or beside"
    assert len({t.text for t in found["inherited"]}) == 24
    by_id = {t.id: t for t in run.trials}
    for stage, before in (("reranked", "inherited"), ("final", "reranked")):
        for t in found[stage] if stage == "reranked" else finals:
            assert by_id[t.parent].stage == before
            assert by_id[t.parent].text == t.text
    assert all(len(t.extra["seeds"]) == 2 for t in found["reranked"])
    assert all("test" in t.extra for t in found["final"])
    assert not any("test" in t.extra for t in (*found["inherited"], *found["reranked"]))


def test_merged_latency_is_a_constant_and_told_once(run: Run) -> None:
    assert {t.values["latency_ms"] for t in run.trials} == {run.header["constants"]["latency_ms"]}
    assert [o.name for o in run.objectives] == ["loss", "adapter_params"]
    table = run.table(run.front())
    assert "the same for every candidate (merged, bf16): " in table
    assert "latency_ms" not in table.splitlines()[0]


def test_costs_are_the_closed_form(run: Run) -> None:
    for t in run.trials:
        ranks = run.ranks(t)
        assert t.values["adapter_params"] == sum(r * sum(run.header["sites"][n]) for n, r in ranks.items())


def test_the_front_is_not_dominated_and_can_be_asked(run: Run) -> None:
    front = run.front()
    assert len(front) >= 2
    points = [(t.values["loss"], t.values["adapter_params"]) for t in front]
    assert not any(a != b and a[0] <= b[0] and a[1] <= b[1] for a in points for b in points)
    best = front.best("accuracy", where="adapter_params <= 5k")
    assert best.values["adapter_params"] <= 5000
    assert front.best("adapter_params").values["adapter_params"] <= front.knee().values["adapter_params"]
    assert {"id", "stage", "loss"} <= set(front.to_pandas().columns)
    assert all(t.values["adapter_params"] <= 3000 for t in run.front(where="adapter_params <= 3k"))


@pytest.mark.parametrize("stage", ["inherited", "reranked", "final"])
def test_an_extracted_module_has_the_logged_loss(run: Run, stage: str) -> None:
    trial = stages(run)[stage][0]
    told = trial.extra["seeds"][0]["loss"] if stage == "reranked" else trial.values["loss"]
    rows = digits.load("digits-rotated")[0]["validation"]
    sub = run.extract(trial)
    with torch.no_grad():
        logits = sub.module(pixel_values=torch.from_numpy(rows["image"])).logits
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(rows["label"]))
    assert float(loss) == pytest.approx(told, abs=1e-4)
    assert sub.adapter_params == trial.values["adapter_params"]


@pytest.mark.parametrize("form", ["peft", "uniform", "merged", pytest.param("onnx", marks=pytest.mark.slow)])
def test_extract_reloads_and_compares(run: Run, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / form
    assert main(["extract", str(run.path), "--pick", "best:loss", "--as", form, "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["as"] == form
    assert told["max_abs_diff"] <= 1e-4
    card = (out / "README.md").read_text()
    assert run.header["base"]["sha256"] in card
    assert run.header["data"]["sha256"] in card
    assert told["trial"]["text"] in card
    assert main(["extract", str(run.path), "--as", form, "--out", str(out)]) == 2
    assert "exists and is not an empty folder; nothing was written" in capsys.readouterr().err


def test_an_export_that_answers_otherwise_is_not_kept(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from archrank.supernet import export

    right = export.peft_config
    monkeypatch.setattr(export, "peft_config", lambda *a: {**right(*a), "lora_alpha": 64, "alpha_pattern": {}})
    assert main(["extract", str(run.path), "--pick", "best:loss", "--out", str(tmp_path / "x")]) == 4
    assert "differs from the supernet by" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", ["inherited", "final"])
def test_a_lost_file_is_told(run: Run, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    trial = next(t for t in run.trials if t.stage == stage)
    file = run.path / "supernet.safetensors" if stage == "inherited" else weights_of(run.path, trial.id)
    monkeypatch.setattr(Path, "exists", lambda self, own=Path.exists: self != file and own(self))
    with pytest.raises(ConfigError, match=rf"{file.name}: is gone; without it the sub-network cannot be extracted"):
        run.extract(trial)


def test_commands_on_a_run(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["front", str(run.path), "--json"]) == 0
    assert [t["id"] for t in json.loads(capsys.readouterr().out)] == [t.id for t in run.front()]
    assert main(["front", str(run.path), "--where", "adapter_params < 0"]) == 3
    assert "nothing meets the constraints" in capsys.readouterr().err
    assert main(["front", str(run.path), "--where", "adapter <= 2"]) == 2
    assert "adapter_params" in capsys.readouterr().err
    assert main(["report", str(run.path), "--out", str(tmp_path / "r.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(tmp_path / "r.html")}
    assert main(["extract", str(run.path), "--pick", "999", "--out", str(tmp_path / "a")]) == 2
    assert "no trial 999; ids run from 0 to" in capsys.readouterr().err
    assert main(["extract", str(run.path), "--pick", "middle", "--out", str(tmp_path / "a")]) == 2
    assert "cannot pick 'middle'" in capsys.readouterr().err
    assert main(["run", "lora_ranks", "--out", str(run.path)]) == 2
    assert f"holds a run already; go on with `search resume {run.path}`" in capsys.readouterr().err
    assert main(["resume", str(run.path), "--json"]) == 0
    assert {"run", "seconds", "verdict", "configurations", "front"} == set(json.loads(capsys.readouterr().out))


def test_a_runs_own_config_repeats_it(run: Run, tmp_path: Path) -> None:
    assert main(["run", "--config", str(run.path / "config.toml"), "--out", str(tmp_path / "again"), "--json"]) == 0
    again = ar.open(tmp_path / "again")
    assert [(t.text, t.values, t.stage) for t in again.trials] == [(t.text, t.values, t.stage) for t in run.trials]


def test_damaged_and_future_lines_are_named_and_the_rest_is_kept(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run.path, tmp_path / "d")
    log = tmp_path / "d" / "trials.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:5], "{broken", '{"schema": 2, "id": 900}', *lines[5:]]) + '\n{"id": 99')
    assert main(["front", str(tmp_path / "d"), "--json"]) == 0
    told = capsys.readouterr()
    assert [t["id"] for t in json.loads(told.out)] == [t.id for t in run.front()]
    assert "line 6" in told.err
    assert "line 7" in told.err
    assert "schema 2" in told.err


@pytest.mark.parametrize("strategy", ["random", "optuna:TPESampler"])
def test_other_strategies_and_objectives(tmp_path: Path, strategy: str) -> None:
    run = ar.run(
        "lora_ranks", strategy=strategy, objective=["accuracy:max", "adapter_params"], out=tmp_path / "r",
        trials=8, train_steps=6, finalists=0,
    )  # fmt: skip
    assert len(run.trials) == 8
    best = run.front().best("accuracy")
    assert best.values["accuracy"] == max(t.values["accuracy"] for t in run.trials)
    assert run.front()[0].id == best.id


def test_vllm_pays_for_the_bucket_and_two_devices_are_two_objectives(tmp_path: Path) -> None:
    run = ar.run(
        "lora_ranks", hw=["a100", "h100"], deploy="vllm", out=tmp_path / "r", trials=12, train_steps=6, finalists=0
    )
    assert [o.name for o in run.objectives] == ["loss", "adapter_params", "latency_ms@a100", "latency_ms@h100"]
    kinds: dict[tuple[Any, ...], set[float]] = {}
    for t in run.trials:
        ranks = run.ranks(t)
        bucket = next(b for b in (1, 8, 16) if max(ranks.values(), default=0) <= b)
        kinds.setdefault((bucket, *sorted({n.rpartition(".")[2] for n in ranks})), set()).add(
            t.values["latency_ms@a100"]
        )
    assert all(len(times) == 1 for times in kinds.values())
    assert len(set().union(*kinds.values())) > 1


def test_constraints_bound_every_candidate(tmp_path: Path) -> None:
    run = ar.run(
        "lora_ranks", where="adapter_params <= 2k", hw="a100", out=tmp_path / "r", trials=8, train_steps=6, finalists=1
    )
    assert all(t.values["adapter_params"] <= 2000 for t in run.trials)
    with pytest.raises(NothingFeasible, match=r"no finished trial meets adapter_params <= 2k and loss <= 0\.0001"):
        ar.open(tmp_path / "r").pick("knee", where="loss <= 0.0001")


def test_a_loss_constraint_makes_trials_infeasible(tmp_path: Path) -> None:
    assert (
        main(
            [
                "run",
                "lora_ranks",
                "--where",
                "loss <= 0.001",
                "--trials",
                "4",
                "--train-steps",
                "4",
                "--out",
                str(tmp_path / "r"),
            ]
        )
        == 3
    )
    assert {t.state for t in ar.open(tmp_path / "r").trials} == {"infeasible"}


def test_a_bf16_base_with_checkpointing_and_accumulation(tmp_path: Path) -> None:
    run = ar.run(
        "lora_ranks", compute_dtype="bf16", gradient_checkpointing=True, accumulate=2, hw="cpu", deploy="unmerged",
        out=tmp_path / "r", trials=6, train_steps=6, finalists=1,
    )  # fmt: skip
    final = next(t for t in run.trials if t.stage == "final")
    assert run.extract(final).adapter_params == final.values["adapter_params"]
    assert len({t.values["latency_ms"] for t in run.trials}) > 1


def test_keywords_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"run\(\) has no keyword 'trails'; did you mean trials\?"):
        ar.run("lora_ranks", trails=3)


def test_threads_and_numbers_of_the_config_reach_the_run(run: Run) -> None:
    assert run.config.threads == 1
    assert run.config.lr == 0.01
    assert np.isfinite(run.seconds)
