"""Closed forms of the ops, and how a workload adds them up."""

from __future__ import annotations

import subprocess
import sys

import pytest

from archrank.grammar.workload import FORMS, OpCost, Workload, WorkloadError

LINEAR = OpCost.of("linear", {"m": 8, "n": 4, "k": 2})


@pytest.mark.parametrize(
    ("op", "dims", "flops", "elements"),
    [
        ("linear", {"m": 8, "n": 4, "k": 2}, 128, 16 + 8 + 32),
        ("bmm", {"b": 3, "m": 8, "n": 4, "k": 2}, 384, 3 * (16 + 8 + 32)),
        (
            "conv2d",
            {
                "b": 2,
                "c_in": 4,
                "c_out": 6,
                "h": 9,
                "w": 7,
                "kernel": 3,
                "stride": 2,
                "padding": 1,
                "groups": 2,
            },
            2 * 2 * 6 * 2 * 9 * 5 * 4,
            2 * 4 * 63 + 6 * 2 * 9 + 2 * 6 * 20,
        ),
        (
            "attention",
            {"b": 2, "heads": 4, "kv_heads": 2, "q": 5, "kv": 7, "d": 3},
            4 * 2 * 4 * 5 * 7 * 3,
            2 * 3 * 68,
        ),
        ("softmax", {"m": 8, "n": 4}, 0, 64),
        ("layer_norm", {"m": 8, "n": 4}, 0, 72),
        ("rms_norm", {"m": 8, "n": 4}, 0, 68),
        ("add", {"m": 8, "n": 4}, 0, 96),
        ("gelu", {"m": 8}, 0, 16),
        ("embedding", {"m": 8, "n": 4}, 0, 72),
        ("lora", {"m": 8, "n": 4, "k": 2, "r": 3}, 2 * 8 * 3 * 6, 3 * 6 + 8 * (2 + 3 + 12) + 8 * (3 + 12)),
        ("vllm_lora", {"m": 8, "n": 4, "k": 2, "bucket": 16}, 2 * 8 * 16 * 6, 16 * 6 + 8 * 22 + 8 * 20),
        ("other", {"flops": 7, "read": 5, "written": 3}, 7, 8),
    ],
)
def test_closed_forms(op: str, dims: dict[str, int], flops: int, elements: int) -> None:
    cost = OpCost.of(op, dims, count=2)
    assert cost.flops == 2 * flops
    assert cost.bytes("fp16") == 2 * 2 * elements
    assert cost.bytes("fp32") == 2 * cost.bytes("bf16") == 4 * cost.bytes("int8")


def test_equal_ops_are_equal_however_they_are_written() -> None:
    assert OpCost.of("linear", {"k": 2, "m": 8, "n": 4}) == LINEAR
    full = {"b": 1, "heads": 4, "q": 5, "kv": 5, "d": 8, "kv_heads": 4}
    assert OpCost.of("attention", full) == OpCost.of("attention", {n: full[n] for n in ("b", "heads", "q", "kv", "d")})
    assert LINEAR.dim("n") == 4


def test_an_ops_own_dtype_goes_first() -> None:
    assert OpCost("linear", LINEAR.dims, "fp32").bytes("fp16") == LINEAR.bytes("fp32")


def test_a_workload_merges_equal_ops_and_adds_up() -> None:
    norm = OpCost.of("layer_norm", {"m": 8, "n": 4})
    one = Workload((LINEAR, norm, LINEAR), weight_elements=16, activation_elements=48, kv_elements=5)
    assert [(op.op, op.count) for op in one.ops] == [("linear", 2), ("layer_norm", 1)]
    both = one + Workload((norm,), weight_elements=4, activation_elements=64)
    assert [(op.op, op.count) for op in both.ops] == [("linear", 2), ("layer_norm", 2)]
    assert both.flops == one.flops == 256
    assert both.bytes("fp16") == one.bytes("fp16") + norm.bytes("fp16")
    assert (both.weight_elements, both.activation_elements, both.kv_elements) == (20, 64, 5)
    assert both.memory_bytes("bf16") == 2 * (20 + 64 + 5)
    assert both.weight_bytes("fp32") == 80


@pytest.mark.parametrize(
    ("op", "dims", "said"),
    [
        ("liner", {}, r"unknown op 'liner': did you mean linear"),
        ("linear", {"m": 1, "n": 2}, r"linear takes m, n, k: k missing"),
        ("linear", {"m": 1, "n": 2, "k": 3, "r": 4}, r"linear takes m, n, k: it has no r"),
        ("gelu", {"n": 2}, r"gelu takes m \(optional: n\): m missing"),
        ("linear", {"m": 0, "n": 2, "k": 3}, r"linear: m = 0, but it is a whole number of at least 1"),
        ("linear", {"m": 1.5, "n": 2, "k": 3}, r"linear: m = 1.5, but it is a whole number of at least 1"),
        (
            "conv2d",
            {"b": 1, "c_in": 3, "c_out": 4, "h": 8, "w": 8, "kernel": 3, "groups": 2},
            r"conv2d: 2 groups do not divide 3 and 4 channels",
        ),
        (
            "conv2d",
            {"b": 1, "c_in": 3, "c_out": 4, "h": 2, "w": 8, "kernel": 3},
            r"conv2d: kernel 3 is larger than the padded 2 × 8 input",
        ),
    ],
)
def test_a_wrong_op_or_size_is_told(op: str, dims: dict[str, int], said: str) -> None:
    with pytest.raises(WorkloadError, match=said):
        OpCost.of(op, dims)


def test_other_errors_are_told() -> None:
    with pytest.raises(WorkloadError, match=r"linear: count = 0, but an op runs at least once"):
        OpCost("linear", LINEAR.dims, count=0)
    with pytest.raises(WorkloadError, match=r"unknown dtype 'fp7': known are fp32, tf32, fp16, bf16, fp8, int8"):
        OpCost("linear", LINEAR.dims, dtype="fp7")
    with pytest.raises(WorkloadError, match=r"linear has no 'r': its sizes are m, n, k"):
        LINEAR.dim("r")
    with pytest.raises(WorkloadError, match=r"kv_elements = -1, but it counts elements: at least 0"):
        Workload(kv_elements=-1)


def test_the_ops_that_the_interface_names_exist() -> None:
    promised = {
        "linear",
        "bmm",
        "conv2d",
        "attention",
        "softmax",
        "layer_norm",
        "gelu",
        "add",
        "embedding",
        "lora",
    }
    assert promised <= set(FORMS)


def test_no_torch() -> None:
    code = "import sys, archrank.predictors, archrank.grammar.workload; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
