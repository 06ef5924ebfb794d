"""The traced workload of a base against torch's own FLOP count, and what adapters add to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from archrank.grammar.workload import OpCost, WorkloadError
from archrank.supernet.tracing import linear_shapes, trace, vllm_bucket, with_adapters, workload

Tiny = Callable[[str], Any]


def _inputs(model: Any, batch: int, seq: int) -> dict[str, torch.Tensor]:
    if model.main_input_name == "input_ids":
        return {"input_ids": torch.ones(batch, seq, dtype=torch.long)}
    return {
        "pixel_values": torch.zeros(batch, model.config.num_channels, model.config.image_size, model.config.image_size)
    }


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("batch", [1, 3])
def test_flops_are_those_of_torch(tiny: Tiny, kind: str, attention: str, batch: int) -> None:
    model = tiny(kind)
    model.set_attn_implementation("eager")  # torch's counter leaves out the CPU's fused attention
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**_inputs(model, batch, 24))
    model.set_attn_implementation(attention)
    assert trace(model, batch=batch, seq=24).flops == counter.get_total_flops()


def test_the_base_is_left_as_it_was(tiny: Tiny, kind: str) -> None:
    model = tiny(kind).train()
    before = {name: (id(p), p.clone()) for name, p in model.named_parameters()}
    traced = trace(model, seq=16)
    assert model.training
    assert all(id(p) == before[n][0] and torch.equal(p, before[n][1]) for n, p in model.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert traced == trace(model.eval(), seq=16)  # dropout is left out
    assert traced.weight_elements == sum(p.numel() for p in model.parameters())
    model(**_inputs(model, 1, 16))


def test_ops_of_a_grouped_query_decoder(tiny: Tiny) -> None:
    model = tiny("llama")
    traced = trace(model, batch=2, seq=16)
    by_name = {op.op: op for op in traced.ops}
    sizes = {"b": 2, "heads": 4, "q": 16, "kv": 16, "d": 8}  # transformers repeats the two key heads first
    assert by_name["attention"] == OpCost.of("attention", sizes, count=2)
    assert by_name["rms_norm"] == OpCost.of("rms_norm", {"m": 32, "n": 32}, count=5)
    assert by_name["silu"].count == 2
    assert traced.kv_elements == 2 * 2 * 2 * 16 * 2 * 8
    assert traced.rows["model.layers.0.mlp.up_proj"] == 32


def test_ops_of_a_vision_encoder_and_conv1d(tiny: Tiny) -> None:
    by_name = {op.op: op for op in trace(tiny("vit")).ops}
    assert by_name["conv2d"].dim("kernel") == 2
    assert by_name["layer_norm"].dim("m") == 17
    assert trace(tiny("bert"), seq=16).kv_elements == 0
    assert linear_shapes(tiny("gpt2"))["transformer.h.0.attn.c_attn"] == (96, 32)
    gelu = [op for op in trace(tiny("gpt2"), seq=16).ops if op.op == "gelu"]
    assert gelu == [OpCost.of("gelu", {"m": 16, "n": 128}, count=2)]


def test_merged_adds_nothing_and_unmerged_what_peft_computes(tiny: Tiny) -> None:
    peft = pytest.importorskip("peft")
    model = tiny("bert")
    names = [name for name in linear_shapes(model) if name.endswith(("query", "output.dense"))]
    config = {name: 1 + index for index, name in enumerate(names)}
    base, merged = trace(model, seq=16), workload(model, config, seq=16)
    assert merged.ops == base.ops
    unmerged = workload(model, config, seq=16, deploy="unmerged")
    shapes = linear_shapes(model)
    added = sum(rank * sum(shapes[name]) for name, rank in config.items())
    assert unmerged.weight_elements - base.weight_elements == added
    adapted = peft.LoraConfig(target_modules=names, r=1, rank_pattern={f"^{n}$": r for n, r in config.items()})
    model.set_attn_implementation("eager")
    lora = peft.get_peft_model(model, adapted).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        lora(**_inputs(model, 1, 16))
    assert unmerged.flops == counter.get_total_flops()


def test_vllm_pays_for_the_bucket_on_every_module_of_a_kind(tiny: Tiny) -> None:
    model = tiny("llama")
    base = trace(model, seq=16)
    shapes, rows = base.shapes, base.rows
    one = with_adapters(base, shapes, {"model.layers.0.self_attn.q_proj": 9}, "vllm", rows)
    same = with_adapters(base, shapes, {f"model.layers.{i}.self_attn.q_proj": 16 - i for i in range(2)}, "vllm", rows)
    assert one == same
    assert one.ops[-1] == OpCost.of("vllm_lora", {"m": 16, "n": 32, "k": 32, "bucket": 16}, count=2)
    assert one.weight_elements - base.weight_elements == 2 * 16 * 64
    more = with_adapters(
        base, shapes, {"model.layers.0.self_attn.q_proj": 9, "model.layers.1.mlp.up_proj": 1}, "vllm", rows
    )
    assert sum(op.count for op in more.ops if op.op == "vllm_lora") == 4
    assert [vllm_bucket(r) for r in (1, 2, 8, 9, 257, 321, 512)] == [1, 8, 8, 16, 320, 512, 512]


def test_rows_as_one_number_and_rank_zero(tiny: Tiny) -> None:
    base = trace(tiny("bert"), seq=16)
    name = "bert.encoder.layer.0.attention.self.query"
    assert with_adapters(base, base.shapes, {name: 4}, "unmerged", 16) == with_adapters(
        base, base.shapes, {name: 4}, "unmerged", base.rows
    )
    assert with_adapters(base, base.shapes, {name: 0}, "unmerged", 16) is base


def test_other_convolutions_and_unrun_modules() -> None:
    class Net(torch.nn.Module):
        main_input_name = "input_ids"

        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(9, 6)
            self.conv = torch.nn.Conv1d(6, 4, 3, groups=2)
            self.back = torch.nn.ConvTranspose1d(4, 6, 2, stride=2)
            self.spare = torch.nn.Linear(4, 4)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.back(self.conv(self.table(input_ids).transpose(1, 2)))
            return out

    net = Net()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.zeros(2, 10, dtype=torch.long))
    base = trace(net, batch=2, seq=10)
    assert base.flops == counter.get_total_flops()
    assert with_adapters(base, base.shapes, {"spare": 2}, "unmerged", base.rows).ops == base.ops


def test_errors_are_told(tiny: Tiny) -> None:
    model = tiny("gpt2")
    base = trace(model, seq=8)
    for config, deploy, said in (
        (
            {"transformer.h.0.attn.c_atn": 2},
            "merged",
            r"no linear module 'transformer.h.0.attn.c_atn': did you mean transf",
        ),
        ({"x": 2}, "merged", r"no linear module 'x': it has 9 linear modules"),
        ({"lm_head": -1}, "merged", r"lm_head: rank -1, but a rank is at least 0 \(no adapter\)"),
        (
            {"lm_head": 513},
            "vllm",
            r"rank 513 is above vLLM's largest, 512: lower it, or deploy merged or unmerged",
        ),
        ({}, "onnx", r"deploy = 'onnx', but it is one of merged, unmerged, vllm"),
    ):
        with pytest.raises(WorkloadError, match=said):
            with_adapters(base, base.shapes, config, deploy, base.rows)
    with pytest.raises(WorkloadError, match=r"seq = 65 is above the 64 positions of GPT2LMHeadModel: lower it"):
        trace(model, seq=65)
    with pytest.raises(WorkloadError, match=r"batch = 0, but it is at least 1"):
        trace(model, batch=0)
    model.main_input_name = "input_features"
    with pytest.raises(WorkloadError, match=r"GPT2LMHeadModel takes input_features: only models that take input_ids"):
        trace(model)
