"""`search calibrate` and `search profile`: what they write, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from archrank import predictors, spaces
from archrank.search.cli import main

SPACE = "gpt2_elastic"
FLAGS = ["calibrate", SPACE, "--hw", "a100", "--serve-batch", "2"]


def measured(path: Path, count: int, unit: float = 1.0) -> Path:
    space = spaces.load(SPACE)
    texts = [d.text for d in space.sample(np.random.default_rng(0), n=count)]
    works = [space.elaborate(space.parse(text)).workload(2) for text in texts]
    ms = 1.3 * predictors.load("a100").predict(works, "bf16").ms * unit
    path.write_text("text,latency_ms\n" + "".join(f'"{t}",{y}\n' for t, y in zip(texts, ms, strict=True)), "utf-8")
    return path


def test_measured_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.toml"
    assert main([*FLAGS, "--csv", str(measured(tmp_path / "ms.csv", 12)), "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["path"] == str(out)
    assert said["mape"] < 1
    assert said["spearman"] > 0.99
    assert predictors.load(out).calibration is not None


def test_few_networks_are_said_and_one_has_no_error_to_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "one.toml"
    assert main([*FLAGS, "--csv", str(measured(tmp_path / "ms.csv", 1)), "--out", str(out), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == {"path": str(out), "mape": None, "spearman": None}
    assert "1 networks are few: the interval is widened" in told.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("text,ms\na,1\n", "in.csv:1: no column latency_ms (it has text, ms): the header is text,latency_ms"),
        ("text,latency_ms\n", "in.csv: no row below the header"),
        ("text,latency_ms\nx,fast\n", "in.csv:2: latency_ms = 'fast', but it is a number of milliseconds above 0"),
        ("text,latency_ms\nx,-1\n", "in.csv:2: latency_ms = '-1'"),
        ("text,latency_ms\ngpt3,1\n", "in.csv: network 1, 'gpt3': "),
    ],
)
def test_a_wrong_table(text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.csv").write_text(text, "utf-8")
    assert main([*FLAGS, "--csv", str(tmp_path / "in.csv"), "--out", str(tmp_path / "never.toml")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "never.toml").exists()


@pytest.mark.parametrize(("unit", "said"), [(1e-3, "such as seconds?"), (1e3, "such as microseconds?")])
def test_another_unit(unit: float, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = measured(tmp_path / "unit.csv", 3, unit)
    assert main([*FLAGS, "--csv", str(table), "--out", str(tmp_path / "never.toml")]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "unit.csv" in told
    assert not (tmp_path / "never.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*FLAGS, "--csv", "none.csv", "--out", "x.toml"], "none.csv: cannot be read: No such file"),
        ([*FLAGS, "--csv", "none.csv"], "--out is missing"),
        ([*FLAGS, "--csv", "none.csv", "--export", "kit"], "--export goes with --measure"),
        ([*FLAGS, "--measure", "0", "--out", "x.toml"], "--measure 0: must be at least 1"),
        ([*FLAGS[:-1], "0", "--measure", "2", "--out", "x.toml"], "--serve-batch 0: must be at least 1"),
        (["calibrate", SPACE, "--hw", "a1000", "--measure", "2", "--out", "x.toml"], "unknown device 'a1000'"),
        ([*FLAGS, "--serve-dtype", "fp8", "--measure", "2", "--out", "x.toml"], "has no fp8 peak"),
        (["calibrate", "lora_ranks", "--hw", "a100", "--measure", "2", "--out", "x.toml"], "nothing to time"),
    ],
)
def test_bad_flags(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile, fitted = tmp_path / "here.toml", tmp_path / "fitted.toml"
    assert main(["profile", "--out", str(profile), "--dtype", "fp32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(profile)}
    here = predictors.load(profile)
    assert here.profile.kind in ("cpu", "gpu")
    flags = ["--hw", str(profile), "--measure", "4", "--serve-dtype", "fp32", "--out", str(fitted)]
    assert main(["calibrate", "nasbench201", *flags]) == 0
    assert predictors.load(fitted).calibration is not None


def test_a_profile_of_a_dtype_that_cannot_be_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--out", str(tmp_path / "x.toml"), "--dtype", "fp7"]) == 2
    assert "dtype 'fp7' cannot be timed here: choose one of fp32, tf32, fp16, bf16" in capsys.readouterr().err


def test_a_table_of_measured_ops_becomes_a_profile() -> None:
    import torch

    from archrank.search import profiling

    where = torch.device("cpu")
    rows = []
    for case in profiling.cases(("fp32",), "cpu"):
        bare = profiling.Row(case.op, {**case.dims, **_options(case.op, case.dims)}, case.dtype, 1.0, 0.02)
        rows.append(profiling.Row(bare.op, bare.dims, bare.dtype, 5e-3 + bare.flops / 4e8 + bare.bytes / 2e7, 0.02))
    found = profiling.profile(rows, where, "mine")
    assert found.name == "mine"
    assert found.prices == "roofline"
    assert 2e11 < found.peak_ops_per_s["fp32"] < 4.2e11
    assert 1e10 < found.spec["memory_bandwidth_bytes_per_s"] < 2.2e10
    device = predictors.Device(found)
    told = [float(np.asarray(device.op_ms(row.op, dtype="fp32", **row.dims))) for row in rows]  # type: ignore[arg-type]
    assert np.median(np.abs(np.array(told) / np.array([row.ms for row in rows]) - 1)) < 0.3


def _options(op: str, dims: object) -> dict[str, int]:
    if op == "conv2d":
        return {"stride": 1, "groups": 1}
    return {"kv_heads": 12} if op == "attention" else {}


def test_a_model_larger_than_the_devices_memory_is_no_candidate() -> None:
    from archrank.grammar.workload import OpCost, Workload
    from archrank.search.pricing import Pricer

    work = Workload((OpCost.of("linear", {"m": 8, "n": 8, "k": 8}),), weight_elements=10**11)
    pricer = Pricer(work, {}, {"a100": predictors.load("a100")}, "merged", "bf16", {}, 10**11)
    told = pricer.too_large(pricer.price({}))
    assert told is not None
    assert "A100-80GB SXM has 80.0 GiB, but 186.3 GiB are needed in bf16 at this batch" in told
