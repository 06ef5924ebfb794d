"""What a rank search cannot work with is told before any training, and what it can despite appearances works."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

import archrank as ar
from archrank.search.cli import main
from archrank.search.config import ConfigError, RunConfig
from archrank.search.job import prepare
from archrank.supernet import policies
from archrank.supernet.base import BaseModelError, load_base
from archrank.supernet.policies.codyra import CoDyRA

SPACE = (
    '//@ target_modules = "all-linear"\nstart: site+  //@ each = target_modules\nsite: MODULE ":" adapter\n'
    'adapter: {none}"lora" "(" RANK ")" -> lora\nRANK: {ranks}\n'
    "MODULE: /[A-Za-z_][\\w.]*/  //@ bound\n%ignore /\\s+/\n"
)


def space(folder: Path, *ranks: int, none: bool = False) -> str:
    file = folder / "s.lark"
    options = " | ".join(f'"{r}"' for r in ranks)
    file.write_text(SPACE.format(none='"none" -> none | ' if none else "", ranks=options))
    return str(file)


ALWAYS_ADAPTED = [p for p in policies.available() if not policies.load(p).switches_modules]


@pytest.mark.parametrize("policy", [*ALWAYS_ADAPTED, "dylora:frozen", "sora:official"])
def test_a_space_of_one_rank_leaves_a_policy_nothing_to_choose(policy: str, tmp_path: Path) -> None:
    text = rf"--policy {policy}: needs more than one rank to choose from, and the space 's' has 4 alone"
    with pytest.raises(ConfigError, match=text):
        ar.run(space(tmp_path, 4), policy=policy, out=tmp_path / "r")
    assert not (tmp_path / "r").exists(), "refused before a step was trained"


@pytest.mark.parametrize("policy", ["sandwich", "dylora", "nls"])
def test_a_policy_that_leaves_no_module_alone_needs_two_ranks_above_zero(policy: str, tmp_path: Path) -> None:
    file = space(tmp_path, 4, none=True)
    with pytest.raises(ConfigError, match=rf"--policy {policy}: needs more than one rank to choose from"):
        prepare(RunConfig(space=file, policy=policy))
    assert prepare(RunConfig(space=file, policy="mixed")).allowed_ranks == (0, 4)


def test_a_budget_below_the_smallest_configuration_says_what_is_possible(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--where", "adapter_params <= 10", "--out", str(tmp_path / "r")]
    assert main(["run", space(tmp_path, 1, 2), *flags]) == 3
    told = capsys.readouterr().err
    assert "no sentence meets" in told
    assert "adapter_params of this base lie between 1,344 and 2,688" in told
    assert not (tmp_path / "r").exists()


def test_a_threshold_that_leaves_no_gate_is_not_applied() -> None:
    policy = policies.load("codyra")({"a": (8, 8), "b": (8, 8)}, 4)
    assert isinstance(policy, CoDyRA)
    policy.cut(torch.tensor([[0.5, 0, 0, 0], [0, 0, 0, 0.0]]), 6)
    assert policy.collapsed is None
    policy.cut(torch.zeros(2, 4), 7)
    policy.cut(torch.zeros(2, 4), 8)
    assert policy.collapsed == 8, "steps done when it first happened"
    assert policy.gates.tolist() == [[0.5, 0, 0, 0], [0, 0, 0, 0]]


def test_a_collapse_is_explained_and_the_last_good_gates_are_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(CoDyRA, "kappa", lambda self, step: 1e3 if step >= 5 else 0.0)
    run = ar.run("lora_ranks", policy="codyra", out=tmp_path / "r", train_steps=4, trials=4, finalists=0)
    text = (
        "gate collapse: after step 6 policy codyra has set every gate to 0; the last gates that were not all 0 are kept"
    )
    assert text in capsys.readouterr().err
    assert run.warnings == [text]
    assert text in (run.path / "report.html").read_text()
    assert any(run.ranks(t) for t in run.trials)


def test_adalora_keeps_a_component_where_a_third_of_them_is_less_than_one() -> None:
    from archrank.supernet.adapters.lora import LoRA
    from archrank.supernet.net import Elastic

    net = Elastic(torch.nn.Sequential(torch.nn.Linear(8, 8)), {"0": LoRA(8, 8, 2)})
    policy = policies.load("adalora")({"0": (8, 8)}, 2)
    policy.prepare(net, 20)
    for step in range(11):  # up to the first mask, for which 0.7 components are left
        for p in (*net.adapters.parameters(), policy.gates):  # type: ignore[attr-defined]
            p.grad = torch.ones_like(p)
        policy.after_step(net, step, 1e-2)
    assert int((policy.support(net) != 0).sum()) == 1


# -- bases ------------------------------------------------------------------------------------------------------------


def gpt2(folder: Path) -> Path:
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=32, vocab_size=30)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    from tokenizers import Tokenizer, models, pre_tokenizers

    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<unk>", *(f"w{i}" for i in range(29))])}, "<unk>"))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tok, unk_token="<unk>", pad_token="<unk>").save_pretrained(
        folder
    )
    return folder


def texts(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = [json.dumps({"text": " ".join(f"w{i}" for i in rng.integers(0, 29, 12))}) for _ in range(40)]
    file = folder / "t.jsonl"
    file.write_text("\n".join(lines))
    return file


def test_tied_weights_that_are_adapted_are_named_before_the_run(tmp_path: Path) -> None:
    base, data = str(gpt2(tmp_path / "b")), str(texts(tmp_path))
    said = "1 of 1 adapted modules cannot be merged: lm_head shares its weight with transformer.wte (tied weights)"
    tied = RunConfig(base=base, data=data, target_modules="lm_head", max_length=16)
    assert any(w.startswith(said) for w in prepare(tied).warnings)
    alone = RunConfig(base=base, data=data, target_modules="lm_head", max_length=16, deploy="unmerged")
    assert not any("tied" in w for w in prepare(alone).warnings)
    assert not any("tied" in w for w in prepare(RunConfig(base=base, data=data, max_length=16)).warnings)


def test_an_adapter_folder_is_no_base(tmp_path: Path) -> None:
    model = transformers.GPT2LMHeadModel.from_pretrained(gpt2(tmp_path / "b"))
    get_peft_model(model, LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True)).save_pretrained(tmp_path / "a")
    with pytest.raises(BaseModelError, match=r"a: holds an adapter \(adapter_config\.json\), not a base; give"):
        load_base(str(tmp_path / "a"))


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        ({"quant_method": "gptq", "bits": 4}, r"is quantised \(gptq\): .*optimum.*; install that package, or give the"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, r"is quantised \(bitsandbytes\): .*bitsandbytes"),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, r"is quantised \(torchao\): No module named"),
    ],
)
def test_a_quantised_base_whose_library_is_absent(stored: Mapping[str, object], text: str, tmp_path: Path) -> None:
    from importlib.util import find_spec

    if find_spec(str(stored["quant_method"])) is not None:
        pytest.skip("its library is here")
    folder = gpt2(tmp_path / "b")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": stored}))
    with pytest.raises(BaseModelError, match=text):
        load_base(str(folder), "causal-lm")
