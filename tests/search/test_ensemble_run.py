"""A search over ensembles from end to end on the embedded base and on digits: supernet, shrinking, finalists, report,
exports, interruptions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import archrank as ar
from archrank import spaces
from archrank.search.architecture_run import ArchitecturePhases
from archrank.search.candidates import weights_of
from archrank.search.config import ConfigError, RunConfig
from archrank.search.ensemble_job import prepare_ensembles
from archrank.search.ensemble_run import EnsemblePhases
from archrank.search.ensemble_summary import ensemble_tables, members_of
from archrank.search.export import take_home
from archrank.search.interrupt import Interrupted
from archrank.search.phases import Shell
from archrank.search.results import Run
from archrank.search.run import resume, start
from archrank.supernet import Ensemble, load_ensemble
from archrank.supernet.ensembles import ensemble

FLAGS: dict[str, object] = {
    "objective": ("loss", "flops"), "trials": 12, "train_steps": 15, "batch_size": 16, "finalists": 2, "seed": 1,
    "strategy": "random", "eval_rows": 100, "shrink_rounds": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return ar.run("elastic_ensemble", hw="a100", out=tmp_path_factory.mktemp("run") / "r", **FLAGS)


def values(run: Run) -> list[tuple[object, ...]]:
    return [(t.id, t.text, t.stage, t.state, dict(t.values), t.extra.get("test")) for t in run.trials]


def test_candidates_are_ensembles_and_the_report_sets_them_against_singles(finished: Run) -> None:
    assert finished.finished
    assert [t.stage for t in finished.trials] == ["inherited"] * 12 + ["final"] * 2
    assert {members_of(t) for t in finished.trials} == {1, 2, 3}
    for t in finished.trials:
        if t.state == "done":
            assert {"loss", "accuracy", "adapter_params", "params", "flops", "latency_ms"} <= set(t.values)
            assert ("diversity" in t.values) == (members_of(t) > 1)
            assert len(t.extra["member_losses"]) == members_of(t)  # type: ignore[arg-type]
    assert all({"loss", "accuracy"} <= set(t.extra["test"]) for t in finished.trials[-2:])  # type: ignore[call-overload]
    tables = {t.name: t for t in ensemble_tables(finished)}
    assert {row[0] for row in tables["ensembles"].rows} == {"1", "2", "3"}
    events = [e for e in finished.contents.events if e.get("event") == "shrink"]
    assert len(events) == 1
    gone = [o["name"] for o in events[0]["options"] if o["dropped"]]  # type: ignore[attr-defined]
    assert gone
    assert [row[1] for row in tables["shrinking"].rows] == gone
    assert not any(name.startswith("start") for name in gone)
    page = (finished.path / "report.html").read_text()
    assert "Ensembles against single networks" in page
    assert "Options that left the space" in page
    assert "|" in finished.table(finished.front())


def test_nothing_that_left_the_space_is_asked_again(finished: Run) -> None:
    event = finished.event("shrink")
    gone = {o["production"] for o in event["options"] if o["dropped"]}
    assert all(gone.isdisjoint(finished.space.parse(t.text).choices) for t in finished.trials)


def test_prices_are_those_of_the_module() -> None:
    job = prepare_ensembles(RunConfig(**{**FLAGS, "space": "elastic_ensemble"}))  # type: ignore[arg-type]
    job.net.measure([job.batches(0)(0)[0]])
    x = {"pixel_values": torch.zeros(1, 1, 8, 8)}
    for d in job.space.sample(np.random.default_rng(0), 12):
        choice = job.members(d)
        if choice.coinciding:
            continue
        module, price = ensemble(job.net, choice), job.price_members(choice)
        assert sum(p.numel() for p in module.parameters()) == price["params"]
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            module(**x)
        assert price["flops"] == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("form", ["merged", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_finalist_goes_home(finished: Run, tmp_path: Path, form: str) -> None:
    trial = max((t for t in finished.trials if t.stage == "final"), key=members_of)
    taken = take_home(finished, pick=str(trial.id), where=(), form=form, out=str(tmp_path / "e"))
    assert taken.max_abs_diff <= 1e-4
    card = (tmp_path / "e" / "README.md").read_text()
    assert f"{members_of(trial)} members share the embeddings" in card
    assert taken.load in card
    module = finished.extract(trial)
    assert isinstance(module, Ensemble)
    if form == "merged":
        x = torch.randn(3, 1, 8, 8)
        torch.testing.assert_close(load_ensemble(tmp_path / "e")(pixel_values=x).logits, module(pixel_values=x).logits)


def test_an_inherited_candidate_has_the_supernets_weights_and_peft_is_refused(finished: Run, tmp_path: Path) -> None:
    trial = next(t for t in finished.trials if t.stage == "inherited" and t.state == "done")
    module = finished.extract(trial.id)
    assert isinstance(module, Ensemble)
    with pytest.raises(ConfigError, match=r"--as peft: .* searched ensembles; take one home as merged or onnx"):
        take_home(finished, pick=str(trial.id), where=(), form="peft", out=str(tmp_path / "x"))


@pytest.mark.parametrize(("stage", "name"), [("inherited", "supernet"), ("final", "importance"), ("final", None)])
def test_a_lost_file_is_told(finished: Run, monkeypatch: pytest.MonkeyPatch, stage: str, name: str | None) -> None:
    trial = next(t for t in finished.trials if (t.stage, t.state) == (stage, "done"))
    file = finished.path / f"{name}.safetensors" if name else weights_of(finished.path, trial.id)
    monkeypatch.setattr(Path, "exists", lambda self, own=Path.exists: self != file and own(self))
    with pytest.raises(ConfigError, match=rf"{file.name}: is gone; without it the ensemble cannot be extracted\. `sea"):
        finished.extract(trial)


@pytest.mark.parametrize("stage", ["supernet", pytest.param("search", marks=pytest.mark.slow)])
def test_an_interrupted_run_goes_on_to_the_same_trials(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    pause, calls = Shell._pause, [0]
    after = 4 if stage == "supernet" else 60

    def stop(self: Shell) -> None:
        pause(self)
        calls[0] += 1
        if calls[0] == after:
            raise Interrupted(75, "stopped")

    monkeypatch.setattr(EnsemblePhases, "_pause", stop)
    out = tmp_path / "r"
    with pytest.raises(Interrupted):
        start(RunConfig(space="elastic_ensemble", hw=("a100",), out=str(out), **FLAGS))  # type: ignore[arg-type]
    monkeypatch.setattr(EnsemblePhases, "_pause", pause)
    assert values(resume(out)) == values(finished)


def test_members_that_coincide_are_infeasible_and_reported(tmp_path: Path) -> None:
    file = spaces.path("elastic_ensemble").read_text()
    file = file.replace('HEADS: "25%" | "50%" | "75%" | "100%"', 'HEADS: "100%"')
    file = file.replace("//@ p = 0.5\n", "//@ p = 1\n").replace("-> lora\n", "-> lora //@ p = 0\n")
    file = file.replace('FFN: "25%" | "50%" | "75%" | "100%"', 'FFN: "50%" | "100%"')
    (tmp_path / "few.lark").write_text(file)
    run = ar.run(
        tmp_path / "few.lark", out=tmp_path / "r", **{**FLAGS, "shrink_rounds": 0, "finalists": 0, "trials": 40}
    )
    told = [t for t in run.trials if t.state == "infeasible"]
    assert told
    assert all("members of the ensemble coincide from layer" in (t.reason or "") for t in told)
    assert {t.name: len(t.rows) for t in ensemble_tables(run)}["coinciding"] == len(told)


def test_networks_are_searched_with_their_ensembles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {**FLAGS, "data": "digits", "trials": 24, "train_steps": 8}
    whole = ar.run("ensemble_cnn", out=tmp_path / "whole", **flags)
    event = whole.event("shrink")
    gone = {o["production"] for o in event["options"] if o["dropped"]}
    assert gone
    late = [t for t in whole.trials if t.stage == "inherited" and t.id >= 12]
    assert all(gone.isdisjoint(whole.space.parse(t.text).choices) for t in late)
    assert {members_of(t) for t in whole.trials} == {1, 2, 3}
    assert all(("diversity" in t.values) == (members_of(t) > 1) for t in whole.trials)
    assert "Ensembles against single networks" in (whole.path / "report.html").read_text()
    pause = ArchitecturePhases._pause

    def stop(self: ArchitecturePhases) -> None:
        pause(self)
        if len(self.study.trials) == 14:
            raise Interrupted(75, "stopped")

    monkeypatch.setattr(ArchitecturePhases, "_pause", stop)
    out = tmp_path / "parted"
    with pytest.raises(Interrupted):
        start(RunConfig(space="ensemble_cnn", out=str(out), **flags))  # type: ignore[arg-type]
    monkeypatch.setattr(ArchitecturePhases, "_pause", pause)
    assert values(resume(out)) == values(whole)
