"""The verdict and what feeds it: paired intervals, uniform references, plans, traced fronts, agreement."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import archrank as ar
from archrank.search import verdict
from archrank.search.cli import main
from archrank.search.config import ConfigError
from archrank.search.errors import NothingFeasible
from archrank.search.results import Run
from archrank.supernet.agreement import kendall, within_strata


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return ar.run(
        "lora_ranks", out=tmp_path_factory.mktemp("runs") / "1", train_steps=20, trials=16, finalists=2, seed=3
    )


def test_the_interval_is_paired_by_row() -> None:
    rng = np.random.default_rng(0)
    own = rng.gamma(1, 1, (1, 400))
    low, high = verdict.paired_interval(own + 0.01, own, float(own.mean()))
    assert low == pytest.approx(high), "a shift of every row has no noise"
    noisy = own + rng.normal(0, 0.1, own.shape)
    low, high = verdict.paired_interval(noisy, own, float(own.mean()))
    assert low < 0 < high
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / 20 / own.mean(), rel=0.2)


def test_a_uniform_rank_is_cut_where_a_module_is_small() -> None:
    shapes = {"a": (8, 8), "b": (2, 8)}
    assert verdict.uniform_rank({"a": 4, "b": 2}, shapes) == 4
    assert verdict.uniform_rank({"a": 4, "b": 1}, shapes) is None
    assert verdict.uniform_rank({"a": 4}, shapes) is None
    assert verdict.uniform_rank({}, shapes) is None


def test_the_first_line_names_uniform_ranks_seeds_and_rows(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    text = run.verdict
    assert "\n" not in text
    assert "uniform r = 16 (r_max)" in text
    assert "1 seed, 300 validation rows" in text
    assert main(["resume", str(run.path)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == text
    assert text.split(" (")[0] in (run.path / "report.html").read_text()


def test_within_picks_the_smallest_that_is_shown_to_stay_near(run: Run) -> None:
    found = verdict.compared(run)
    assert [c.params for c in found] == sorted(c.params for c in found)
    top = found[-1]
    assert (top.low, top.high, top.uniform) == (0.0, 0.0, 16)
    sizes = []
    for share in (0.0, 0.5, 1.0):
        picked = run.pick(f"within:{share:.0%}")
        mine = next(c for c in found if c.trial.id == picked.id)
        assert mine.high <= share
        assert all(c.high > share for c in found if c.params < mine.params)
        sizes.append(mine.params)
    assert sizes == sorted(sizes, reverse=True)
    with pytest.raises(ConfigError, match="--pick within 101%: must be between 0% and 100%"):
        run.pick("within:101%")
    least = min(c.params for c in found)
    with pytest.raises(NothingFeasible, match=r"--pick within:0%: of \d finalists none that meets adapter_params <= "):
        run.pick("within:0%", where=f"adapter_params <= {least:.0f}")


def test_a_verdict_under_a_budget_takes_the_largest_uniform_rank_inside(tmp_path: Path) -> None:
    run = ar.run("lora_ranks", where="adapter_params <= 4k", out=tmp_path / "r", trials=6, train_steps=4, finalists=1)
    assert all(t.values["adapter_params"] <= 4000 for t in run.trials)
    assert "uniform r = 2 (the largest within the constraints)" in run.verdict


def test_what_cannot_be_compared_with_a_uniform_rank_says_so(tmp_path: Path) -> None:
    flags: dict[str, Any] = {"trials": 4, "train_steps": 4}
    small = ar.run("lora_ranks", where="adapter_params <= 500", out=tmp_path / "a", finalists=1, **flags)
    assert small.verdict.startswith("Not compared with a uniform rank, as none meets adapter_params <= 500: ")
    bare = ar.run("lora_ranks", out=tmp_path / "b", finalists=0, **flags)
    assert bare.verdict.startswith("Not compared with r_max, as no finalist was trained (--finalists 0): ")
    with pytest.raises(NothingFeasible, match="adapter_params <= 10 leaves the bare base alone: the smallest adapter"):
        ar.run("lora_ranks", where="adapter_params <= 10", out=tmp_path / "c", **flags)
    with pytest.raises(ConfigError, match="--evaluate train: a rank search scores candidates with inherited weights"):
        ar.run("lora_ranks", evaluate="train", out=tmp_path / "d", **flags)


def test_plan_says_what_max_hours_changes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "lora_ranks", "--train-steps", "400", "--max-hours", "0.0001", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "1 finalists, not 6; it needs" in told["note"]
    assert main(["plan", "lora_ranks", "--finalists", "0", "--max-hours", "0.00001"]) == 0
    assert "nothing of it can be left out; it needs" in capsys.readouterr().out


def test_plan_counts_in_units_of_one_r_max_run(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--train-steps", "80", "--finalists", "2", "--trials", "10"]
    assert main(["plan", "lora_ranks", *flags, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) >= {"targets", "space_size", "phases", "seconds", "memory_bytes", "r_max_runs"}
    assert len(told["targets"]) == 18
    search = 10 * 300 / 32 / 3 / 80
    rerank = 4 * 2 * round(20 / 8) / 80
    assert told["r_max_runs"] == pytest.approx(1 + search + rerank + (2 + 1) / 4, abs=0.01)
    assert told["seconds"] > 0
    assert main(["plan", "lora_ranks", *flags, "--policy", "mixed", "--json"]) == 0
    sampled = 2 + search + 4 * 2 / 8 + 2 + 2
    assert json.loads(capsys.readouterr().out)["r_max_runs"] == pytest.approx(sampled, abs=0.01)
    assert main(["plan", "einspace"]) == 2
    assert "is one of architectures" in capsys.readouterr().err


@pytest.mark.parametrize(("policy", "passes"), [("mixed", 1), ("diffora", 2), ("autolora:second-order", 4)])
def test_plan_counts_every_pass_of_a_step(policy: str, passes: int) -> None:
    from archrank.search.config import RunConfig
    from archrank.search.job import prepare
    from archrank.search.planning import plan_of

    phases = {p.name: p.steps for p in plan_of(prepare(RunConfig(policy=policy, train_steps=50)), 0.01).phases}
    assert phases["supernet"] == 2 * 50 * passes


def test_max_hours_leaves_other_families_their_supernet() -> None:
    from archrank.search.config import RunConfig
    from archrank.search.job import prepare
    from archrank.search.planning import fitted

    config, said = fitted(prepare(RunConfig(space="hydra", train_steps=400, max_hours=1e-4)))
    assert (config.policy, config.finalists) == ("mixed", 1)
    assert said is not None
    assert "policy full" not in said


def test_max_hours_makes_the_pipeline_fit() -> None:
    from archrank.search.config import RunConfig
    from archrank.search.job import prepare
    from archrank.search.planning import fitted

    job = prepare(RunConfig(policy="mixed", train_steps=400, max_hours=1e-4))
    config, said = fitted(job)
    assert (config.policy, config.finalists) == ("full", 1)
    assert said is not None
    assert "one r_max run in canonical form (policy full) stands for the sampled supernet, 1 finalists, not 6" in said
    assert fitted(prepare(RunConfig(train_steps=2, max_hours=9.0)))[1] is None


@pytest.mark.parametrize("policy", ["diffora", "maestro"])
def test_a_tracing_policy_yields_a_front_of_space_ranks(policy: str, tmp_path: Path) -> None:
    run = ar.run(
        "lora_ranks", policy=policy, out=tmp_path / "r", train_steps=24, trials=8, finalists=1, lr=1e-2, seed=3
    )
    inherited = [t for t in run.trials if t.stage == "inherited"]
    sizes = {t.values["adapter_params"] for t in inherited}
    assert len(sizes) >= 4
    assert all(set(run.ranks(t).values()) <= {1, 2, 4, 8, 16} for t in run.trials)
    assert run.event("collapse") == {}
    trial = inherited[-1]
    sub = run.extract(trial)
    assert sub.ranks == run.ranks(trial)
    assert sub.adapter_params == trial.values["adapter_params"]


def test_a_collapse_before_the_first_point_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from archrank.search.errors import RunError
    from archrank.supernet.policies.sora import SoRA

    monkeypatch.setattr(SoRA, "traced", lambda self, net, step: {})
    with pytest.raises(RunError, match="gate collapse: after 4 steps, before its first point, policy sora has set"):
        ar.run("lora_ranks", policy="sora", out=tmp_path / "r", train_steps=4, trials=4, finalists=1)


def test_a_later_collapse_keeps_the_points_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from archrank.supernet.policies.sora import SoRA

    whole = SoRA.traced
    monkeypatch.setattr(SoRA, "traced", lambda self, net, step: whole(self, net, step) if step < 6 else {})
    run = ar.run("lora_ranks", policy="sora", out=tmp_path / "r", train_steps=4, trials=4, finalists=0)
    assert run.event("collapse")["step"] == 7
    assert len(run.trials) >= 1


def test_a_policy_that_does_not_suit_a_space(tmp_path: Path) -> None:
    file = tmp_path / "s.lark"
    file.write_text(
        '//@ target_modules = "all-linear"\nstart: site+  //@ each = target_modules\nsite: MODULE ":" adapter\n'
        'adapter: "lora" "(" RANK ")" -> lora\nRANK: "1" | "2"\n'
        "MODULE: /[A-Za-z_][\\w.]*/  //@ bound\n%ignore /\\s+/\n"
    )
    for policy in ("diffora", "lora_drop"):
        with pytest.raises(ConfigError, match=f"--policy {policy}: decides which modules carry an adapter at all, but"):
            ar.run(str(file), policy=policy, out=tmp_path / "r", trials=2, train_steps=2)
    with pytest.raises(ConfigError, match="--policy sora: policies draw the ranks of adapters, and the space"):
        ar.run("einspace", policy="sora", data="digits", out=tmp_path / "r")


def test_kendall_is_scipys_and_strata_count_their_own_pairs() -> None:
    from scipy.stats import kendalltau

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 40).astype(float), rng.integers(0, 6, 40).astype(float)
    assert kendall(x, y) == pytest.approx(kendalltau(x, y).statistic)
    assert kendall(x, np.ones(40)) == 0
    strata = np.repeat([0, 1], 20)
    shifted = y + 100 * strata
    assert within_strata(x, shifted, strata) == pytest.approx(within_strata(x, y, strata))


def test_agreement_of_a_traced_run_reads_what_references_start_from(tmp_path: Path) -> None:
    from dataclasses import replace

    from archrank.search import agreement
    from archrank.search.job import prepare
    from archrank.search.racing import Scorer

    run = ar.run("lora_ranks", policy="sora", out=tmp_path / "r", train_steps=40, trials=6, finalists=0, seed=3)
    job = prepare(replace(run.config, space=str(run.path / "space.lark"), out=None))
    net = agreement.inherited(job, run.path)
    first = run.trials[0]
    assert set(run.ranks(first).values()) == {16}
    assert Scorer(replace(job, net=net)).score(run.ranks(first)).values["loss"] == pytest.approx(
        first.values["loss"], rel=1e-5
    )


def test_agreement_under_a_tight_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags: dict[str, Any] = {"train_steps": 4, "trials": 4, "finalists": 0, "where": "adapter_params <= 1k"}
    run = ar.run("lora_ranks", out=tmp_path / "r", **flags)
    flags = {"configs": 9, "seeds": 2, "train_steps": 2}
    told = ar.search.agreement.agreement(run.path, **flags)
    assert (told.wide.configs, told.iso.configs) == (3, 6)
    assert told.wide.kind in told.describe().splitlines()[-2]
    assert told.iso.kind in told.describe().splitlines()[-2]
    assert main(["agreement", str(run.path), "--train-steps", "0"]) == 2
    assert "--train-steps 0: must be at least 1" in capsys.readouterr().err


def test_agreement_of_a_small_run(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "r"
    shutil.copytree(run.path, copy)
    flags = ["agreement", str(copy), "--configs", "8", "--seeds", "2", "--train-steps", "3", "--json"]
    assert main(flags) == 0
    first = json.loads(capsys.readouterr().out)
    for part in ("wide", "iso"):
        for name in ("tau", "ceiling", "params", "per_kind"):
            low, high = first[part]["ci"][name]
            assert -1 <= low <= high <= 1
            assert -1 <= first[part][name] <= 1
    assert main(flags) == 0
    assert json.loads(capsys.readouterr().out) == first, "read from RUN/agreement the second time"
    assert main([*flags[:-1], "--seeds", "1"]) == 2
    assert "at least 6 configurations and 2 seeds" in capsys.readouterr().err
