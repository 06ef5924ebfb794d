"""Loading by name, pricing ops and workloads, and what is said when something is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from archrank import predictors
from archrank.grammar.workload import OpCost, Workload, WorkloadError
from archrank.predictors import DeviceError

A100 = predictors.load("a100")
DEVICES = Path(predictors.__file__).parent / "devices"


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("a100", "A100-80GB SXM"),
        ("A100-80GB SXM", "A100-80GB SXM"),
        ("h100", "H100 SXM5"),
        ("v100", "V100-16GB SXM2"),
        ("t4", "T4"),
        ("l4", "L4"),
        ("rtx-4090", "RTX 4090"),
        ("RTX 4090", "RTX 4090"),
        ("mi300x", "MI300X"),
        ("orin", "Jetson AGX Orin 64GB"),
        ("cpu", "AMD EPYC, Zen 4, 2 cores"),
    ],
)
def test_names_and_short_names(name: str, full: str) -> None:
    assert predictors.load(name).name == full


def test_an_fp16_gemm_on_an_a100() -> None:
    ms = A100.op_ms("linear", m=2048, n=4096, k=4096, dtype="fp16")
    bound = A100.bound_ms("linear", m=2048, n=4096, k=4096, dtype="fp16")
    assert isinstance(ms, float)
    assert bound == pytest.approx(0.2203, abs=1e-3)
    assert bound <= ms < 0.5
    assert ms < float(A100.op_ms("linear", m=2048, n=4096, k=4096, dtype="tf32"))


def test_arrays_broadcast() -> None:
    ms = A100.op_ms("linear", m=np.array([[1], [64]]), n=[128, 256, 512], k=64, dtype="bf16")
    assert isinstance(ms, np.ndarray)
    assert ms.shape == (2, 3)
    assert ms[1, 2] == A100.op_ms("linear", m=64, n=512, k=64, dtype="bf16")


def test_a_small_launch_costs_its_overhead_and_a_merged_product_less_than_a_branch() -> None:
    small = float(A100.op_ms("linear", m=1, n=8, k=8, dtype="fp16"))
    assert 4e-3 < small < 8e-3
    assert float(A100.op_ms("lora", m=1, n=8, k=8, r=4, dtype="fp16")) > 3 * small


def test_winograd_lowers_the_bound_of_a_3x3_convolution_only() -> None:
    shape = {"b": 8, "c_in": 256, "c_out": 256, "h": 28, "w": 28}
    three = A100.bound_ms("conv2d", dtype="fp32", **shape, kernel=3, padding=1)  # type: ignore[misc]
    one = A100.bound_ms("conv2d", dtype="fp32", **shape, kernel=1)  # type: ignore[misc]
    assert three == pytest.approx(9 / 4 * float(one))


def test_a_workloads_own_dtype_and_its_memory() -> None:
    cost = OpCost.of("linear", {"m": 4096, "n": 4096, "k": 4096})
    mixed = OpCost("linear", cost.dims, "fp32")
    told = A100.predict([Workload((cost,), 100, 20, 3), Workload((mixed,))], dtype="bf16")
    assert told.memory_bytes.tolist() == [246, 0]
    assert told.ms[1] > 5 * told.ms[0]


def test_no_workload_is_no_prediction() -> None:
    assert A100.predict([], "fp16").ms.shape == (0,)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a1000", r"unknown device 'a1000': did you mean a100, .*\? shipped are a10, "),
        ("zzzz", r"unknown device 'zzzz': shipped are a10, .*or give the path of a .toml file"),
        ("/nonexistent/mine.toml", r"/nonexistent/mine.toml: cannot be read: No such file"),
    ],
)
def test_an_unknown_device(name: str, said: str) -> None:
    with pytest.raises(DeviceError, match=said):
        predictors.load(name)


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(
        DeviceError, match=r"A100-80GB SXM has no fp7 peak \(known are fp32, .*\): it has fp32, tf32, fp16"
    ):
        A100.op_ms("linear", m=8, n=8, k=8, dtype="fp7")
    with pytest.raises(DeviceError, match=r"has no fp8 peak: it has fp32, tf32, fp16, bf16, int8. Choose one of these"):
        A100.predict([], "fp8")
    with pytest.raises(WorkloadError, match=r"linear: m = -8, but it is a finite number of at least 1"):
        A100.op_ms("linear", m=-8, n=8, k=8, dtype="fp16")
    with pytest.raises(WorkloadError, match=r"linear: n = nan, but it is a finite number of at least 1"):
        A100.op_ms("linear", m=8, n=[8, np.nan], k=8, dtype="fp16")
    with pytest.raises(WorkloadError, match=r"linear: m = 'many', but it is a number or an array of numbers"):
        A100.op_ms("linear", m="many", n=8, k=8, dtype="fp16")
    with pytest.raises(WorkloadError, match=r"unknown op 'liner': did you mean linear\?"):
        A100.bound_ms("liner", m=8, n=8, k=8, dtype="fp16")
    with pytest.raises(WorkloadError, match=r"linear takes m, n, k: k missing"):
        A100.op_ms("linear", m=8, n=8, dtype="fp16")
    with pytest.raises(WorkloadError, match=r"linear: sizes do not broadcast: m \(2,\), n \(3,\), k \(\)"):
        A100.op_ms("linear", m=[1, 2], n=[1, 2, 3], k=8, dtype="fp16")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("tdp_w = 400", "tdp_watt = 400", r"unknown key \[spec\] tdp_watt: known are boost_clock_mhz, "),
        ("tdp_w = 400\n", "", r"key \[spec\] tdp_w is missing"),
        ("tdp_w = 400", "tdp_w = -1", r"\[spec\] tdp_w = -1, but it must be a number from 1 to 1e\+15"),
        ("tdp_w = 400", "tdp_w = nan", r"\[spec\] tdp_w = nan, but it must be a number"),
        ("tdp_w = 400", 'tdp_w = "hot"', r"\[spec\] tdp_w = 'hot', but it must be a number"),
        ("tdp_w = 400", "tdp_w = ", r"not TOML: "),
        ("schema = 1", "schema = 9", r"schema = 9, but it must be 1, the one this version reads"),
        ("schema = 1", "schema = 1\nspeed = 3", r"unknown key speed: known are "),
        ('kind = "gpu"', 'kind = "tpu"', r"kind = 'tpu', but it must be gpu or cpu"),
        ('vendor = "NVIDIA"', "vendor = 3", r"vendor = 3, but it must be a text"),
        ("unconfirmed = []", "unconfirmed = [1]", r"unconfirmed = \[1\], but it must be a list of texts"),
        ("\nfp32 = 1.95e13", "", r"key \[peak_ops_per_s\] fp32 is missing"),
        ("\nspec = ", "\nspeck = ", r"unknown key \[sources\] speck: known are "),
    ],
)
def test_a_wrong_profile_names_the_file_and_the_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = (DEVICES / "a100-80gb-sxm.toml").read_text(encoding="utf-8")
    assert old in text
    mine = tmp_path / "mine.toml"
    mine.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DeviceError, match=r"mine\.toml: .*" + said):
        predictors.load(mine)


def test_a_section_that_is_no_table_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    text = (DEVICES / "cpu.toml").read_text(encoding="utf-8")
    head, _, tail = text.partition("[launch]")
    mine = tmp_path / "mine.toml"
    mine.write_text(
        head.replace("schema = 1", "schema = 1\nlaunch = 3") + "[" + tail.partition("[")[2], encoding="utf-8"
    )
    with pytest.raises(DeviceError, match=r"launch = 3, but it must be a table \[launch\]"):
        predictors.load(mine)
    mine.write_bytes(b"\xff\xfe")
    with pytest.raises(DeviceError, match=r"mine\.toml: not a text file in UTF-8"):
        predictors.load(str(mine))
    mine.write_text(text.replace('spec = "', 'spec = ""\nx = "', 1), encoding="utf-8")
    with pytest.raises(DeviceError, match=r"unknown key \[sources\] x"):
        predictors.load(mine)


def test_a_profile_by_its_path_is_the_same_device(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text((DEVICES / "a100-80gb-sxm.toml").read_text(encoding="utf-8"), encoding="utf-8")
    assert predictors.load(mine) == predictors.load(str(mine)) == A100


def test_rows_of_an_op_table() -> None:
    rows = [
        {"op": "mlp_up_proj", "M": "64", "N": "512", "K": "128", "ms_median": "0.1"},
        {"op": "mlp_act", "M": 64, "N": 256, "K": 2},
        {"op": "mlp_act", "M": 64, "N": 256, "K": 1},
        {"op": "input_layernorm", "M": 64, "N": 128, "K": 0},
        {"op": "post_attention_layernorm", "M": 64, "N": 128, "K": 0},
        {"op": "attn_rope", "M": 64, "N": 128, "K": 0},
        {"op": "emb", "M": 64, "N": 128, "K": 1000},
        {"op": "add", "M": 64, "N": 128, "K": 0},
    ]
    work = predictors.workload(rows)
    ops = [(op.op, op.count) for op in work.ops]
    assert ops[:4] == [("linear", 1), ("silu_mul", 1), ("gelu", 1), ("rms_norm", 2)]
    assert [op for op, _ in ops[4:]] == ["rope", "embedding", "add"]
    assert work.flops == 2 * 64 * 512 * 128
    assert work.weight_elements == 512 * 128 + 2 * 128
    assert A100.predict([work], "fp16").ms[0] > 0


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"op": "gemm"}, r"row 1: op 'gemm' is not one of attn_pre_proj, "),
        ({"op": "add", "M": "x", "N": 1}, r"row 1 \(add\): M = 'x', but it is a whole number of at least 1"),
        ({"op": "mlp_up_proj", "M": 1, "N": 1}, r"row 1 \(mlp_up_proj\): K = None, but it is a whole number"),
    ],
)
def test_a_wrong_row_is_told(row: dict[str, str | int], said: str) -> None:
    with pytest.raises(WorkloadError, match=said):
        predictors.workload([row])
