"""An architecture search from end to end on 8×8 digits, its exports, its interruptions, its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import archrank as ar
from archrank.search.architecture_job import prepare_architectures
from archrank.search.architecture_run import ArchitecturePhases, network_of
from archrank.search.config import ConfigError, RunConfig
from archrank.search.export import take_home
from archrank.search.interrupt import Interrupted
from archrank.search.results import Run, open_run
from archrank.search.run import resume, start
from archrank.supernet.data import DataError
from archrank.supernet.export import ExportDiffers

FLAGS: dict[str, object] = {
    "data": "digits", "hw": "a100", "objective": ("loss", "latency_ms"), "trials": 6, "train_steps": 12,
    "batch_size": 16, "finalists": 2, "seed": 1, "strategy": "random",
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return ar.run("einspace", out=tmp_path_factory.mktemp("run") / "r", **FLAGS)


def values(run: Run) -> list[tuple[object, ...]]:
    return [(t.id, t.text, t.stage, t.state, dict(t.values), t.extra.get("test")) for t in run.trials]


def test_candidates_inherit_and_finalists_are_trained_from_scratch(finished: Run) -> None:
    stages = [t.stage for t in finished.trials]
    assert stages == ["inherited"] * 6 + ["final"] * 2
    assert finished.finished
    for t in finished.trials:
        if t.state == "done":
            assert {"loss", "accuracy", "params", "flops", "latency_ms", "memory_bytes"} <= set(t.values)
    for t in finished.trials[-2:]:
        assert len(t.extra["seeds"]) == 3  # type: ignore[arg-type]
        assert set(t.extra["test"]) == {"loss", "accuracy"}  # type: ignore[arg-type]
        assert t.parent is not None
    final = {t.parent for t in finished.trials if t.stage == "final"}
    assert all(t.stage == "final" for t in finished.front() if t.id in final)
    assert "trained from scratch" in finished.verdict
    assert "sentence" in finished.table(finished.front())
    assert (finished.path / "report.html").stat().st_size > 1e6


def test_costs_are_those_of_the_network_with_its_head(finished: Run) -> None:
    trial = next(t for t in finished.trials if t.stage == "final")
    module = finished.extract(trial).module
    assert sum(p.numel() for p in module.parameters()) == trial.values["params"]
    assert module(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_a_finalist_goes_home_as_a_program_that_stock_torch_loads(finished: Run, tmp_path: Path) -> None:
    trial = next(t for t in finished.trials if t.stage == "final")
    taken = take_home(finished, pick=str(trial.id), where=(), form="torch", out=str(tmp_path / "net"))
    assert taken.max_abs_diff <= 1e-5
    assert {p.name for p in (tmp_path / "net").iterdir()} == {
        "README.md", "model.pt2", "model.safetensors", "network.json",
    }  # fmt: skip
    x = torch.randn(5, 1, 8, 8)
    loaded = torch.export.load(tmp_path / "net" / "model.pt2").module()
    torch.testing.assert_close(loaded(x), finished.extract(trial).module(x))
    told = json.loads((tmp_path / "net" / "network.json").read_text())
    assert (told["sentence"], told["input"], len(told["labels"])) == (trial.text, [1, 8, 8], 10)
    assert "torch.export.load" in (tmp_path / "net" / "README.md").read_text()


def test_an_inherited_candidate_has_the_shared_weights(finished: Run) -> None:
    trial = next(
        t for t in finished.trials if t.stage == "inherited" and t.state == "done" and t.values["params"] > 100
    )
    a, b = (finished.extract(trial).module.state_dict() for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_form_of_another_kind_of_run_is_refused(finished: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--as peft: .* searched networks; take one home as torch or onnx"):
        take_home(finished, pick="knee", where=(), form="peft", out=str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_a_program_that_answers_otherwise_is_not_kept(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from archrank.supernet import onnx_export

    monkeypatch.setattr(onnx_export, "EXACT", -1.0)
    with pytest.raises(ExportDiffers, match=r"the torch file answers otherwise by .*; nothing was kept"):
        take_home(finished, pick="knee", where=(), form="torch", out=str(tmp_path / "x"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("saved", [True, False])
def test_an_interrupted_search_goes_on_to_the_same_trials(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    """Also where the bank was not saved at the end, as after kill -9: what it lacks is trained again."""
    out, pause = tmp_path / "r", ArchitecturePhases._pause
    config = prepared(out)

    def stop(self: ArchitecturePhases) -> None:
        pause(self)
        if len(self._inherited()) == 3:
            raise Interrupted(75, "stopped by SIGTERM")

    with monkeypatch.context() as patch:
        patch.setattr(ArchitecturePhases, "_pause", stop)
        if not saved:
            patch.setattr(ArchitecturePhases, "_save", lambda self: None)
        with pytest.raises(Interrupted, match="go on with: search resume"):
            start(config)
    assert (out / "supernet.safetensors").exists() == saved
    assert len(open_run(out).trials) == 3
    assert values(resume(out)) == values(finished)


def prepared(out: Path) -> RunConfig:
    return RunConfig(space="einspace", **{**FLAGS, "hw": ("a100",), "out": str(out)})  # type: ignore[arg-type]


def test_each_candidate_can_be_trained_from_scratch(tmp_path: Path) -> None:
    flags = {**FLAGS, "trials": 2, "finalists": 1, "objective": ("loss", "params"), "where": "params <= 5k"}
    run = ar.run("einspace", out=tmp_path / "r", evaluate="train", **flags)
    assert not (run.path / "supernet.safetensors").exists()
    assert all(t.values["params"] <= 5000 for t in run.trials)
    final = next(t for t in run.trials if t.stage == "final")
    assert network_of(run.path, final.id).exists()
    with pytest.raises(ConfigError, match=r"trial 0 was trained from scratch and its weights were not kept"):
        run.extract(0)


def test_a_finite_space_ends_when_every_candidate_is_priced(tmp_path: Path) -> None:
    file = tmp_path / "three.lark"
    file.write_text('//@ input = 1x8x8\nstart: "net" "(" W ")" -> linear\nW: "2" | "4" | "8"\n')
    run = ar.run(file, out=tmp_path / "r", **{**FLAGS, "finalists": 1})
    assert [t.stage for t in run.trials] == ["inherited"] * 3 + ["final"]


def test_what_would_hold_too_much_is_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from archrank.search import architecture_job

    monkeypatch.setattr(architecture_job, "MOST_TRAIN_BYTES", 0)
    run = ar.run("einspace", out=tmp_path / "r", **{**FLAGS, "trials": 1})
    (trial,) = run.trials
    assert trial.state == "infeasible"
    assert trial.reason is not None
    assert "MiB at this --batch-size; one gets at most 0" in trial.reason


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        ({"base": "./x"}, ConfigError, "--base ./x: einspace is a space of networks, which start from nothing"),
        ({"objective": ("params",)}, ConfigError, "the first objective is the quality: loss or accuracy"),
        ({"hw": (), "objective": ("loss", "latency_ms")}, ConfigError, "unknown|needs a device"),
        (
            {"hw": (), "objective": ("loss",), "where": ("memory_bytes <= 1M",)},
            ConfigError,
            "memory_bytes needs a device: add --hw",
        ),
        ({"batch_size": 1}, ConfigError, "--batch-size 1: batch normalisation needs at least 2 rows"),
        ({"input": "3x8x8"}, DataError, "--input 3x8x8: the images of digits are 1x8x8; leave --input out"),
        ({"input": "8"}, ConfigError, "--input 8: write channels x height x width, such as 3x32x32"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is_trained(
    flags: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises((error, ValueError), match=message):
        prepare_architectures(RunConfig(space="einspace", **{**FLAGS, "hw": ("a100",), **flags}))  # type: ignore[arg-type]


def test_an_op_without_a_module_is_named(tmp_path: Path) -> None:
    from archrank.grammar import ops
    from archrank.grammar.signatures import Op, same

    ops.register(Op(name="never_built", infer=same))
    file = tmp_path / "s.lark"
    file.write_text('//@ input = 1x8x8\nstart: m\nm: "a" -> never_built\n | "id" -> id\n')
    with pytest.raises(
        ConfigError, match=r"no torch module for never_built; decorate a torch.nn.Module class with ar.o"
    ):
        prepare_architectures(RunConfig(space=str(file), data="digits"))
