"""Whole runs on Hydra and LoRA-XS: the store, the policies and the phases are those of LoRA, the export plain LoRA."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import archrank as ar
from archrank.search.cli import main
from archrank.search.config import ConfigError, RunConfig
from archrank.search.job import Job, prepare
from archrank.search.results import Run
from archrank.search.run import resume
from archrank.search.supernet_training import start_store
from archrank.supernet.adapters.lora_xs import LoRAXS

SPACES = {"hydra": "hydra", "svd_cores": "lora_xs"}
"""Family by shipped space."""


@pytest.fixture(scope="module", params=list(SPACES))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "1"
    return ar.run(request.param, out=out, train_steps=20, trials=12, finalists=1, seed=3, hw="a100")


def job_of(run: Run) -> Job:
    values = {"space": str(run.path / "space.lark"), "seed": run.config.seed, "train_steps": 20}
    return prepare(RunConfig(**values))  # type: ignore[arg-type]


def test_every_phase_is_there_and_costs_are_what_is_trained(run: Run) -> None:
    counts = {stage: sum(t.stage == stage for t in run.trials) for stage in ("inherited", "reranked", "final")}
    assert counts["inherited"] == 12
    assert counts["reranked"] == 2
    assert counts["final"] >= 2
    assert f"uniform r = {max(run.space.ranks)} (r_max)" in run.verdict
    net = job_of(run).net
    for t in run.trials:
        held = sum(p.numel() for p in net.sliced(run.ranks(t)).adapters.parameters())
        assert t.values["adapter_params"] == held
    assert len({t.values["adapter_params"] for t in run.trials}) > 4


@pytest.mark.parametrize("stage", ["inherited", "reranked", "final"])
def test_the_extracted_plain_lora_has_the_logged_loss(run: Run, stage: str) -> None:
    trial = max((t for t in run.trials if t.stage == stage), key=lambda t: t.values["adapter_params"])
    sub = run.extract(trial)
    assert sub.ranks == run.ranks(trial)
    if stage == "reranked":  # a mean over two seeds, of which the first is kept
        wanted = trial.extra["seeds"][0]["loss"]  # type: ignore[index]
    else:
        wanted = trial.values["loss"]
    job = job_of(run)
    total = 0.0
    for batch in job.rows("validation"):
        with torch.no_grad():
            logits = sub.module(pixel_values=batch["pixel_values"]).logits
        total += float(torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="sum"))
    assert total / job.data.size("validation") == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("form", ["peft", "merged"])
def test_it_goes_home_checked_by_a_reload(
    run: Run, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "home"
    assert main(["extract", str(run.path), "--pick", "best:loss", "--as", form, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["max_abs_diff"] < 1e-5
    if form == "peft":
        assert json.loads((out / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_a_finished_run_is_read_and_not_trained_again(run: Run) -> None:
    assert resume(run.path).verdict == run.verdict


def test_agreement_trains_lora_alone(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agreement", str(run.path)]) == 2
    assert "search agreement trains many LoRAs in one pass, and no other family" in capsys.readouterr().err


@pytest.mark.parametrize("policy", ["sora", "full", "diffora", "maestro", "dylora:frozen", "adalora", "codyra"])
def test_a_policy_that_needs_loras_components_is_refused_by_name(policy: str) -> None:
    text = f"--policy {policy}: weighs, orders or freezes single components, and the space 'hydra' has hydra, which"
    with pytest.raises(ConfigError, match=text) as told:
        prepare(RunConfig(space="hydra", policy=policy))
    assert "choose dylora, mixed, nls or sandwich" in str(told.value)


@pytest.mark.parametrize("policy", ["sandwich", "dylora", "nls"])
def test_policies_that_draw_prefixes_serve_every_family(policy: str) -> None:
    for space, family in SPACES.items():
        assert prepare(RunConfig(space=space, policy=policy)).family == family


def test_a_core_starts_from_the_first_update_the_same_each_time() -> None:
    """What an interrupted training needs: its checkpoint holds cores, and their bases come from this start."""
    starts = []
    for _ in range(2):
        job = prepare(RunConfig(space="svd_cores", seed=1))
        start_store(job)
        assert all(isinstance(a, LoRAXS) and bool(a.C.any()) for a in job.net.adapters)
        starts.append(job.net.adapters.state_dict())
    assert all(torch.equal(v, starts[1][k]) for k, v in starts[0].items())


def test_an_interrupted_run_of_cores_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """Stopped in the middle of the supernet's training and resumed, against one that was not."""
    from archrank.search.interrupt import Interrupted
    from archrank.search.phases import Shell

    settings = {"train_steps": 10, "trials": 4, "finalists": 0, "seed": 2}
    whole = ar.run("svd_cores", out=tmp_path / "a", **settings)  # type: ignore[arg-type]
    calls = []
    pause = Shell._pause

    def stop(self: Shell) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise Interrupted(75, "stopped by the test")
        pause(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shell, "_pause", stop)
        with pytest.raises(Interrupted):
            ar.run("svd_cores", out=tmp_path / "b", **settings)  # type: ignore[arg-type]
    assert (tmp_path / "b" / "checkpoint.safetensors").exists()
    again = resume(tmp_path / "b")
    assert [t.values for t in again.trials] == [t.values for t in whole.trials]
