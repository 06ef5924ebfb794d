"""An existing LoRA folder made smaller: exactly, as near as a rank allows, under a budget, by loss; and what is
refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

import archrank as ar
from archrank.search.cli import main

Make = Callable[[str], nn.Module]
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def layers(model: nn.Module) -> dict[str, LoraLayer]:
    return {n.removeprefix("base_model.model."): m for n, m in model.named_modules() if isinstance(m, LoraLayer)}


def products(model: nn.Module) -> dict[str, Tensor]:
    return {n: m.get_delta_weight("default").detach().double() for n, m in layers(model).items()}


def adapter(model: nn.Module, folder: Path, rank: int = 3, **given: Any) -> dict[str, Tensor]:
    """A saved PEFT LoRA whose products have true rank `rank` and norms of their own; returns the products."""
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(**{"r": 8, "lora_alpha": 4, "target_modules": LINEARS, **given})
    )
    g = torch.Generator().manual_seed(1)
    for place, m in enumerate(layers(wrapped).values()):
        A, B = m.lora_A["default"].weight.data, m.lora_B["default"].weight.data
        k = min(rank, len(A))
        A.copy_(torch.randn(len(A), k, generator=g) @ torch.randn(k, A.shape[1], generator=g))
        B.copy_(0.02 * 0.5**place * torch.randn(B.shape[0], k, generator=g) @ torch.randn(k, len(A), generator=g))
    wrapped.save_pretrained(str(folder))
    return products(wrapped)


def reloaded(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    return products(peft.PeftModel.from_pretrained(model, str(folder)))


def edit(folder: Path, **values: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {r"^model\.layers\.1\.mlp\.up_proj$": 9, "up_proj": 2}},
    ],
)
def test_a_true_rank_comes_back_with_the_same_product(tiny: Make, tmp_path: Path, given: dict[str, Any]) -> None:
    wanted = adapter(tiny("llama"), tmp_path / "a", **given)
    done = ar.shrink(tmp_path / "a", spectral_energy=1.0, out=tmp_path / "b")
    found = reloaded(tiny("llama"), tmp_path / "b")
    assert set(done.ranks.values()) == {3}
    assert all(float((found[n] - w).norm() / w.norm()) < 1e-6 for n, w in wanted.items())
    assert done.max_abs_diff < 1e-5
    assert done.adapter_params < done.before
    config = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert config["lora_alpha"] == config["r"] == 3
    assert not config["use_rslora"]
    assert (tmp_path / "b" / "spectrum.svg").read_text().count('class="k"') == len(wanted)


def test_a_rank_gives_the_best_approximation(tiny: Make, tmp_path: Path) -> None:
    wanted = adapter(tiny("llama"), tmp_path / "a", rank=8, rank_pattern={"k_proj": 1})
    done = ar.shrink(tmp_path / "a", max_rank=2, out=tmp_path / "b")
    found = reloaded(tiny("llama"), tmp_path / "b")
    for name, w in wanted.items():
        s = torch.linalg.svdvals(w)
        assert done.ranks[name] == (1 if "k_proj" in name else 2)
        assert float((found[name] - w).norm() - s[done.ranks[name] :].norm()) < 1e-6 * float(s[0])


def test_factors_of_whole_numbers_are_told() -> None:
    with pytest.raises(ValueError, match=r"A is torch\.int64 and B torch\.int64: the canonical form is one of"):
        ar.supernet.canonical(torch.ones(2, 3, dtype=torch.int64), torch.ones(4, 2, dtype=torch.int64))


def test_a_budget_is_shared_over_all_modules(tiny: Make, tmp_path: Path) -> None:
    wanted = adapter(tiny("llama"), tmp_path / "a", rank=8)
    budget = sum(2 * sum(w.shape) for w in wanted.values())
    done = ar.shrink(tmp_path / "a", where=f"adapter_params <= {budget}", out=tmp_path / "b")
    assert 0.9 * budget < done.adapter_params <= budget
    assert 0 in done.ranks.values(), "the smallest modules give their share to the largest"
    found = reloaded(tiny("llama"), tmp_path / "b")
    assert set(found) == {n for n, r in done.ranks.items() if r}
    error = sum(float((w - found.get(n, torch.zeros_like(w))).norm() ** 2) for n, w in wanted.items())
    uniform = sum(float(torch.linalg.svdvals(w)[2:].norm() ** 2) for w in wanted.values())
    assert error < 0.5 * uniform


def test_energy_and_rank_together_keep_the_smaller(tiny: Make, tmp_path: Path) -> None:
    adapter(tiny("llama"), tmp_path / "a", rank=8)
    ninety = ar.shrink(tmp_path / "a", spectral_energy=0.9, out=tmp_path / "b")
    both = ar.shrink(tmp_path / "a", spectral_energy=0.9, max_rank=2, out=tmp_path / "c")
    assert all(both.ranks[n] == min(r, 2) for n, r in ninety.ranks.items())
    assert ninety.energy >= 0.9


@pytest.mark.filterwarnings("ignore:Adapter 'default'")  # PEFT takes the bias of B for a factor cut by ZeRO
@pytest.mark.parametrize(("module", "bias"), [("word_embeddings", False), ("dense", True)])
def test_embeddings_biases_and_heads_come_along(tiny: Make, tmp_path: Path, module: str, bias: bool) -> None:
    """An embedding's factors are stored without `.weight`, biases of B have its scale, a saved head stays as it is."""
    given = {"target_modules": ["query", module], "task_type": "SEQ_CLS", "r": 4, "lora_alpha": 8, "lora_bias": bias}
    model = peft.get_peft_model(tiny("bert"), peft.LoraConfig(**given))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora" in name:
                p.normal_(generator=torch.Generator().manual_seed(2))
    model.save_pretrained(str(tmp_path / "a"))
    done = ar.shrink(tmp_path / "a", spectral_energy=1.0, out=tmp_path / "b")
    again = peft.PeftModel.from_pretrained(tiny("bert"), str(tmp_path / "b")).eval()
    ids = {"input_ids": torch.arange(3, 15).view(2, 6)}
    with torch.no_grad():
        torch.testing.assert_close(again(**ids).logits, model.eval()(**ids).logits, atol=1e-5, rtol=1e-4)
    assert any(module in n for n in done.ranks)


@pytest.mark.filterwarnings("ignore:Adapter 'default'")
@pytest.mark.parametrize("given", [{"bias": "lora_only"}, {"bias": "all"}, {"lora_bias": True}])
def test_a_module_without_product_keeps_its_biases(tiny: Make, tmp_path: Path, given: dict[str, Any]) -> None:
    config = peft.LoraConfig(target_modules=["query", "dense"], task_type="SEQ_CLS", r=8, **given)
    model, empty = peft.get_peft_model(tiny("bert"), config), "layer.0.attention.output.dense"
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad:
                p.normal_(std=0.3, generator=g)
            if f"{empty}.lora_B.default.weight" in name:
                p.zero_()
    model.save_pretrained(str(tmp_path / "a"))
    done = ar.shrink(tmp_path / "a", spectral_energy=1.0, out=tmp_path / "b")
    assert done.ranks[next(n for n in done.ranks if empty in n)] == ("lora_bias" in given)
    again = peft.PeftModel.from_pretrained(tiny("bert"), str(tmp_path / "b")).eval()
    ids = {"input_ids": torch.arange(3, 15).view(2, 6)}
    with torch.no_grad():
        torch.testing.assert_close(again(**ids).logits, model.eval()(**ids).logits, atol=1e-5, rtol=1e-4)
    price = min(sum(m.get_delta_weight("default").shape) for m in layers(model).values())
    small = ar.shrink(tmp_path / "a", where=f"adapter_params <= {40 * price}", out=tmp_path / "c")
    if "lora_bias" in given:
        assert min(small.ranks.values()) == 1
        with pytest.raises(ValueError, match=r"one component of each of \d+ modules with a bias of B, has"):
            ar.shrink(tmp_path / "a", where=f"adapter_params <= {price}", out=tmp_path / "d")


def test_the_command(tiny: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter(tiny("llama"), tmp_path / "a")
    edit(tmp_path / "a", base_model_name_or_path="nobody/no-such-base")
    args = ["shrink", str(tmp_path / "a"), "--spectral-energy", "1", "--out"]
    assert main([*args, str(tmp_path / "b"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"path", "ranks", "adapter_params", "max_abs_diff"} <= set(told)
    assert main([*args, str(tmp_path / "c")]) == 0
    assert "r3×14" in capsys.readouterr().out
    assert main([*args, str(tmp_path / "c")]) == 2
    assert "exists and is not an empty folder; nothing was written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"use_dora": True}, r"a: is a DoRA \(use_dora\): its magnitudes rescale"),
        ({"peft_type": "IA3"}, r"a: its peft_type is IA3; shrink reads LORA"),
        ({"peft_type": "ADALORA"}, r"peft\.convert_to_lora makes one of it"),
        ({"init_lora_weights": "pissa"}, r"a: was started by pissa, which changes the base's weights"),
        ({"use_qalora": True}, r"a: is QALoRA, not one product B A a module"),
        ({"target_parameters": ["experts.gate"]}, r"LoRA on parameters \(target_parameters\)"),
        ({"ensure_weight_tying": True}, r"a: is LoRA on tied weights \(ensure_weight_tying\)"),
        ({"r": 4}, r"is stored at rank 8, but adapter_config\.json says 4; the two files do not belong together"),
        ({"lora_alpha": None}, r"adapter_config\.json: lora_alpha is null; it must be a number"),
        ({"rank_pattern": {"q_proj": "x"}}, r"rank_pattern\['q_proj'\] is \"x\"; it must be a number"),
        ({"alpha_pattern": {"(": 4}}, r"alpha_pattern has the key '\(', which is no regular expression: missing \)"),
        ({"rank_pattern": [4]}, r"rank_pattern is \[4\]; it must be an object"),
    ],
)
def test_what_is_no_plain_lora_is_refused_by_name(
    tiny: Make, tmp_path: Path, change: dict[str, object], text: str
) -> None:
    adapter(tiny("llama"), tmp_path / "a", target_modules=["q_proj"])
    edit(tmp_path / "a", **change)
    with pytest.raises(ValueError, match=text):
        ar.shrink(tmp_path / "a", max_rank=2, out=tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_folders_of_other_tools_are_told(tiny: Make, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "a"
    with pytest.raises(ValueError, match="no such folder; give a PEFT adapter's"):
        ar.shrink(folder, max_rank=2, out=tmp_path / "b")
    (folder / "default").mkdir(parents=True)
    (folder / "default" / "adapter_config.json").touch()
    with pytest.raises(
        ValueError, match=r"holds the adapters default, each in a folder of its own; give one: .*default"
    ):
        ar.shrink(folder, max_rank=2, out=tmp_path / "b")
    (folder / "default" / "adapter_config.json").unlink()
    (folder / "default").rmdir()
    (folder / "lora.safetensors").touch()
    with pytest.raises(ValueError, match=r"has no adapter_config\.json \(there is lora\.safetensors\).*kohya"):
        ar.shrink(folder, max_rank=2, out=tmp_path / "b")
    adapter(tiny("llama"), folder, target_modules=["q_proj"])
    file = folder / "adapter_model.safetensors"
    whole = load_file(file)
    key = next(iter(whole))

    def says(tensors: dict[str, Tensor], text: str) -> None:
        save_file(tensors, file)
        with pytest.raises(ValueError, match=text):
            ar.shrink(folder, max_rank=2, out=tmp_path / "b")

    says({k.removeprefix("base_model.model."): v for k, v in whole.items()}, "does not begin with base_model.model.")
    says({k: v for k, v in whole.items() if k != key}, "and not the other factor")
    says({**whole, key: torch.full_like(whole[key], float("nan"))}, "holds NaN or infinite values")
    says({"lora_unet_down.alpha": torch.ones(1)}, "holds no lora_A and lora_B")
    says({k: torch.zeros_like(v) for k, v in whole.items()}, "every product is zero")
    says({k: v[:0] if "lora_A" in k else v[:, :0] for k, v in whole.items()}, r"has A \(0, 32\) and B \(32, 0\)")
    settings = (folder / "adapter_config.json").read_text()
    (folder / "adapter_config.json").write_text("{x")
    says(whole, r"adapter_config\.json:1:2: is not JSON: Expecting property name")
    (folder / "adapter_config.json").write_text(settings)
    file.write_bytes(b"no")
    with pytest.raises(ValueError, match="cannot be read"):
        ar.shrink(folder, max_rank=2, out=tmp_path / "b")
    file.rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"only adapter_model\.bin, a pickle"):
        ar.shrink(folder, max_rank=2, out=tmp_path / "b")


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({}, "no rule to choose ranks by"),
        ({"spectral_energy": 1.5}, "--spectral-energy 1.5: must be above 0 and at most 1"),
        ({"max_rank": 0}, "--max-rank 0: must be at least 1"),
        ({"ranks": "8"}, "--ranks 8: must be auto"),
        ({"ranks": "auto"}, "--ranks auto chooses by loss and needs --data"),
        ({"max_rank": 2, "data": "digits"}, "--data is read by --ranks auto alone"),
        ({"ranks": "auto", "data": "digits", "within": -0.1}, "--within -0.1: must be at least 0"),
        ({"where": "loss <= 1"}, "unknown name 'loss'"),
        ({"where": "adapter_params >= 1"}, "shrink takes upper bounds alone"),
        (
            {"where": "adapter_params <= 10"},
            "the smallest that can be kept, one component of one module, has 64",
        ),
        ({"where": "adapter_params < 64"}, "--where adapter_params <= 63: the smallest that can be kept"),
    ],
)
def test_bad_rules_are_told(tiny: Make, tmp_path: Path, flags: dict[str, Any], text: str) -> None:
    adapter(tiny("llama"), tmp_path / "a", target_modules=["q_proj"])
    with pytest.raises(ValueError, match=re.escape(text)):
        ar.shrink(tmp_path / "a", out=tmp_path / "b", **flags)


def test_ranks_by_loss_keep_the_quality(tmp_path: Path) -> None:
    """An adapter of the embedded base with 12 idle components: they go, the loss stays."""
    from archrank.search.config import RunConfig
    from archrank.search.job import prepare
    from archrank.supernet.base import EMBEDDED
    from archrank.supernet.export import Home
    from archrank.supernet.subnetwork import SubNetwork
    from archrank.supernet.training import TrainPlan, train

    job = prepare(RunConfig())
    net = job.net.sliced(dict.fromkeys(job.net.names, 4))
    train(net, job.batches(0), job.loss, TrainPlan(60, 1e-2))
    factors = {}
    for name, a in net.items():
        A, B = a.lora_factors()
        factors[name] = torch.cat([A, torch.randn(8, A.shape[1])]), torch.cat([B, torch.zeros(len(B), 8)], dim=1)
    SubNetwork(job.base.model, factors, Home(str(EMBEDDED))).save_pretrained(tmp_path / "a")
    done = ar.shrink(
        tmp_path / "a", ranks="auto", data="digits", within=0.02, task="image-classification", out=tmp_path / "b"
    )
    assert done.losses["shrunk"] <= 1.02 * done.losses["whole"]
    assert done.adapter_params < 0.4 * done.before
    given: dict[str, Any] = {"ranks": "auto", "data": "digits", "within": 0.0, "task": "image-classification"}
    capped = ar.shrink(tmp_path / "a", **given, max_rank=1, out=tmp_path / "c")
    assert set(capped.ranks.values()) <= {0, 1}
    assert capped.losses["whole"] == pytest.approx(done.losses["whole"])
    budget = done.before // 40
    bounded = ar.shrink(tmp_path / "a", **given, where=f"adapter_params <= {budget}", out=tmp_path / "d")
    assert 0 < bounded.adapter_params <= budget
    assert f"({bounded.losses['shrunk'] / bounded.losses['whole'] - 1:+.2%})" in bounded.describe()
