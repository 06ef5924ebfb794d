"""Prices against closed forms: what each deployment charges for a rank, and what it does not."""

from __future__ import annotations

import pytest

from archrank import predictors
from archrank.grammar.workload import OpCost, Workload, WorkloadError
from archrank.search.pricing import Pricer, latency_name

SHAPES = {"0.attn.q": (32, 32), "0.mlp.up": (64, 32), "1.attn.q": (32, 32), "1.mlp.up": (64, 32)}
ROWS = dict.fromkeys(SHAPES, 17)
LINEARS = tuple(OpCost("linear", (("m", 17), ("n", n), ("k", k))) for n, k in SHAPES.values())
BARE = Workload(LINEARS, sum(n * k for n, k in SHAPES.values()), 17 * 64)
BASE_FLOPS = sum(2 * 17 * n * k for n, k in SHAPES.values())
RANKS = {"0.attn.q": 3, "1.mlp.up": 8}
ADAPTER = 3 * (32 + 32) + 8 * (64 + 32)


def pricer(deploy: str, *devices: str) -> Pricer:
    return Pricer(BARE, SHAPES, {d: predictors.load(d) for d in devices}, deploy, "bf16", ROWS, 10_000)


def test_merged_charges_nothing_for_a_rank() -> None:
    told, bare = pricer("merged", "a100").price(RANKS), pricer("merged", "a100").price({})
    assert told == {**bare, "adapter_params": ADAPTER}
    assert told["params"] == 10_000
    assert told["flops"] == BASE_FLOPS
    assert pricer("merged", "a100").constants() == {k: v for k, v in bare.items() if k != "adapter_params"}


def test_unmerged_adds_two_products_a_module() -> None:
    told = pricer("unmerged").price(RANKS)
    assert told == {"adapter_params": ADAPTER, "params": 10_000 + ADAPTER, "flops": BASE_FLOPS + 2 * 17 * ADAPTER}
    assert pricer("unmerged").price({}) == {"adapter_params": 0, "params": 10_000, "flops": BASE_FLOPS}
    assert pricer("unmerged").constants() == {}


def test_vllm_runs_the_largest_bucket_on_every_module_of_an_adapted_kind() -> None:
    vllm = pricer("vllm", "a100")
    told = vllm.price(RANKS)
    assert told["flops"] == BASE_FLOPS + 2 * 17 * 8 * sum(map(sum, SHAPES.values()))
    assert told["adapter_params"] == ADAPTER
    same = vllm.price({"1.attn.q": 8, "0.mlp.up": 2})
    assert same["latency_ms"] == told["latency_ms"]
    assert vllm.price({**RANKS, "0.attn.q": 9})["latency_ms"] > told["latency_ms"]
    assert vllm.price({"0.attn.q": 8})["latency_ms"] < told["latency_ms"]
    assert vllm.price({"0.attn.q": 1})["flops"] == BASE_FLOPS + 2 * 17 * 2 * (32 + 32)


def test_a_rank_that_vllm_cannot_serve_is_refused() -> None:
    with pytest.raises(WorkloadError, match="rank 513 is above vLLM's largest, 512"):
        pricer("vllm", "a100").price({"0.attn.q": 513})


@pytest.mark.parametrize("deploy", ["unmerged", "vllm"])
def test_an_adapter_only_adds(deploy: str) -> None:
    p = pricer(deploy, "a100")
    bare, told = p.price({}), p.price(RANKS)
    assert all(told[name] > bare[name] for name in ("params", "flops", "latency_ms", "memory_bytes"))


def test_each_device_has_its_own_latency() -> None:
    told = pricer("unmerged", "a100", "h100").price(RANKS)
    assert {"latency_ms@a100", "latency_ms@h100"} <= set(told)
    assert "latency_ms" not in told
    for d in ("a100", "h100"):
        assert told[f"latency_ms@{d}"] == pricer("unmerged", d).price(RANKS)["latency_ms"]
    assert latency_name("h100", ["h100"]) == "latency_ms"
    assert latency_name("h100", ["h100", "a100"]) == "latency_ms@h100"
