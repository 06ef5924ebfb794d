"""Exports against stock PEFT and transformers, on the four kinds of model."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from archrank.supernet import elastic
from archrank.supernet.export import Home, merged, peft_config, zero_padded
from archrank.supernet.net import Elastic
from archrank.supernet.subnetwork import SubNetwork

Make = Callable[[str], nn.Module]
TASK = {"vit": None, "bert": "SEQ_CLS", "llama": "CAUSAL_LM", "gpt2": "CAUSAL_LM"}


def inputs_of(kind: str) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(5)
    if kind == "vit":
        return {"pixel_values": torch.randn(3, 1, 8, 8, generator=g)}
    ids = torch.randint(3, 60, (3, 9), generator=g)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        out: Tensor = model.eval()(**inputs).logits
    return out


@pytest.fixture
def searched(tiny: Make, kind: str, tmp_path: Path) -> tuple[Elastic, dict[str, int], Path, str]:
    """A scrambled supernet over a model saved to a folder, and a configuration of mixed ranks with modules left out."""
    model = tiny(kind)
    home = tmp_path / "base"
    model.save_pretrained(home)  # type: ignore[operator]
    net = elastic(model, "lora_ranks", r_max=8)
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in net.adapters.parameters():
            p.normal_(0, 0.15, generator=g)
    rng = np.random.default_rng(1)
    ranks = {name: int(rng.choice([0, 1, 2, 4, 8])) for name in net.names}
    ranks[net.names[0]], ranks[net.names[1]] = 8, 1
    return net, ranks, home, kind


def taken(net: Elastic, ranks: dict[str, int], home: Path, kind: str) -> SubNetwork:
    return SubNetwork(net.base, net.extract(ranks).factors, Home(str(home), TASK[kind]))


def stock(kind: str, home: Path, adapter: Path) -> nn.Module:
    import peft
    import transformers as t

    cls = {"vit": t.AutoModelForImageClassification, "bert": t.AutoModelForSequenceClassification}.get(
        kind, t.AutoModelForCausalLM
    )
    model: nn.Module = peft.PeftModel.from_pretrained(cls.from_pretrained(home), adapter)
    return model


def test_stock_peft_answers_as_the_supernet(
    searched: tuple[Elastic, dict[str, int], Path, str], tmp_path: Path
) -> None:
    net, ranks, home, kind = searched
    net.select(ranks)
    truth = logits(net, inputs_of(kind))
    sub = taken(net, ranks, home, kind)
    for form, save in {"peft": sub.save_pretrained, "uniform": sub.save_uniform}.items():
        save(tmp_path / form)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = stock(kind, home, tmp_path / form)
            assert float((logits(model, inputs_of(kind)) - truth).abs().max()) <= 1e-5
            merged = model.merge_and_unload()  # type: ignore[operator]
        assert float((logits(merged, inputs_of(kind)) - truth).abs().max()) <= 1e-5
    base = logits(net.base, inputs_of(kind))
    assert float((truth - base).abs().max()) > 1e-3


def test_transformers_load_adapter_and_the_merged_folder(
    searched: tuple[Elastic, dict[str, int], Path, str], tmp_path: Path
) -> None:
    net, ranks, home, kind = searched
    net.select(ranks)
    truth = logits(net, inputs_of(kind))
    sub = taken(net, ranks, home, kind)
    sub.save_pretrained(tmp_path / "peft")
    model = type(net.base).from_pretrained(home)  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.load_adapter(str(tmp_path / "peft"))
    assert float((logits(model, inputs_of(kind)) - truth).abs().max()) <= 1e-5
    sub.save_merged(tmp_path / "merged")
    merged = type(net.base).from_pretrained(tmp_path / "merged")  # type: ignore[attr-defined]
    assert float((logits(merged, inputs_of(kind)) - truth).abs().max()) <= 1e-5
    assert float((logits(sub.module, inputs_of(kind)) - truth).abs().max()) <= 1e-5


def test_the_adapter_folder_is_what_servers_expect(
    searched: tuple[Elastic, dict[str, int], Path, str], tmp_path: Path
) -> None:
    net, ranks, home, kind = searched
    sub = taken(net, ranks, home, kind)
    sub.save_pretrained(tmp_path / "peft")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    heads = {key: value for key, value in tensors.items() if ".lora_" not in key}
    assert set(heads) == (
        {"base_model.model.classifier.weight", "base_model.model.classifier.bias"} if kind == "bert" else set()
    )
    tensors = {key: value for key, value in tensors.items() if key not in heads}
    wanted = {name: r for name, r in ranks.items() if r}
    assert {key.removeprefix("base_model.model.").rsplit(".lora_", 1)[0] for key in tensors} == set(wanted)
    assert config["r"] == config["lora_alpha"] == 8
    assert config["rank_pattern"] == config["alpha_pattern"]
    assert all(
        key.startswith("^") and r == wanted[key[1:].replace("\\", "")] for key, r in config["rank_pattern"].items()
    )
    assert not config["use_rslora"]
    assert sub.adapter_params == sum(t.numel() for t in tensors.values())
    assert config["fan_in_fan_out"] == (kind == "gpt2")


def test_names_that_are_suffixes_of_others_stay_apart() -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 4)])
            self.decoder = nn.Module()
            self.decoder.layers = nn.ModuleList([nn.Linear(4, 4)])

    factors = {"layers.0": (torch.ones(1, 4), torch.ones(4, 1))}
    config = peft_config(Twins(), factors, Home("x"))
    assert config["target_modules"] == r"(?:layers\.0)"
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(Twins(), peft.LoraConfig(target_modules=str(config["target_modules"]), r=1))
    assert [n for n, _ in model.named_modules() if n.endswith("lora_A")] == ["base_model.model.layers.0.lora_A"]


def test_layer_1_is_not_layer_11() -> None:
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(4, 4) for _ in range(12)])})
    factors = {f"layers.{i}": (torch.ones(1 + i % 3, 4), torch.ones(4, 1 + i % 3)) for i in range(12)}
    config = peft_config(model, factors, Home("x"))
    import peft

    given = {
        k: v for k, v in config.items() if k in ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules")
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stocked = peft.get_peft_model(model, peft.LoraConfig(**given))
    for i in range(12):
        layer = stocked.base_model.model["layers"][i]
        assert (layer.r["default"], layer.scaling["default"]) == (1 + i % 3, 1.0)


def test_padding_keeps_the_product() -> None:
    g = torch.Generator().manual_seed(0)
    factors = {n: (torch.randn(r, 5, generator=g), torch.randn(6, r, generator=g)) for n, r in (("a", 2), ("b", 4))}
    padded = zero_padded(factors)
    for name, (A, B) in factors.items():
        assert padded[name][0].shape == (4, 5)
        assert torch.equal(padded[name][1] @ padded[name][0], B @ A)


def test_an_adapter_of_no_module_is_refused(tiny: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="adapts no module: it is the base itself; pick another, or export it merged"):
        SubNetwork(tiny("bert"), {}).save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_onnx_of_the_merged_model(searched: tuple[Elastic, dict[str, int], Path, str], tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    net, ranks, home, kind = searched
    inputs = inputs_of(kind)
    net.select(ranks)
    session = runtime.InferenceSession(str(taken(net, ranks, home, kind).export_onnx(tmp_path / "m.onnx")))
    answer = session.run(None, {i.name: inputs[i.name].numpy() for i in session.get_inputs()})[0]
    assert float((torch.as_tensor(answer) - logits(net, inputs)).abs().max()) <= 1e-4


def test_tied_and_quantised_weights_are_not_merged(tiny: Callable[[str], nn.Module]) -> None:
    model = tiny("gpt2")
    A, B = torch.ones(1, 32), torch.ones(60, 1)
    with pytest.raises(ValueError, match=r"lm_head shares its weight with transformer\.wte \(tied weights\)"):
        merged(model, {"lm_head": (A, B)})
    layer = model.get_submodule("transformer.h.0.attn.c_attn")
    layer.weight = nn.Parameter(torch.zeros(32, 96, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match="c_attn is a Conv1D, whose weight is quantised"):
        merged(model, {"transformer.h.0.attn.c_attn": (torch.ones(1, 32), torch.ones(96, 1))})
