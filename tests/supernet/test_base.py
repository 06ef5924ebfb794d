"""Bases: the embedded one, folders, heads that fit and heads that do not, and each refusal by its text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from archrank.supernet.base import EMBEDDED, BaseModelError, load_base, module_shapes
from archrank.supernet.modules import ModuleError, adaptable, target_modules


def bert(folder: Path, labels: int = 2, **more: object) -> Path:
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=labels,
        **more,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(25))]
    from tokenizers import Tokenizer, models, pre_tokenizers

    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tok, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    return folder


def test_the_embedded_base_ships_and_is_frozen() -> None:
    base = load_base(None, label_names=[str(i) for i in range(10)])
    assert base.embedded
    assert base.task == "image-classification"
    assert base.new_head == ()
    assert not any(p.requires_grad for p in base.model.parameters())
    assert 20_000 < sum(p.numel() for p in base.model.parameters()) < 30_000
    assert len(base.fingerprint) == 64


def test_a_head_of_the_right_size_is_kept(tmp_path: Path) -> None:
    folder = bert(tmp_path / "b")
    stored = transformers.BertForSequenceClassification.from_pretrained(folder).state_dict()
    base = load_base(str(folder), label_names=["no", "yes"])
    assert (base.task, base.new_head) == ("text-classification", ())
    assert base.name_or_path == str(folder.resolve())
    assert all(torch.equal(v, stored[k]) for k, v in base.model.state_dict().items())


def test_a_head_of_another_size_is_new_and_the_same_for_one_seed(tmp_path: Path) -> None:
    folder = bert(tmp_path / "b")
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (load_base(str(folder), label_names=list("abc"), seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.rand(1), wanted), "the caller's generator moved"
    assert first.new_head == ("classifier",)
    heads = [b.model.get_submodule("classifier").weight for b in (first, again, other)]
    assert heads[0].shape == (3, 16)  # type: ignore[union-attr]
    assert torch.equal(heads[0], heads[1])  # type: ignore[arg-type]
    assert not torch.equal(heads[0], heads[2])  # type: ignore[arg-type]


def test_an_encoder_without_a_head_gets_one(tmp_path: Path) -> None:
    folder = bert(tmp_path / "b")
    model = transformers.BertForSequenceClassification.from_pretrained(folder).bert
    model.save_pretrained(folder)
    base = load_base(str(folder), "text-classification", label_names=["no", "yes"])
    assert base.new_head == ("classifier",)
    with pytest.raises(
        BaseModelError, match=r"config.json names no head \(BertModel\); say --task image-classification or text-class"
    ):
        load_base(str(folder))


def test_a_kept_head_keeps_its_own_order_of_the_same_names(tmp_path: Path) -> None:
    folder = bert(tmp_path / "b", id2label={0: "yes", 1: "no"}, label2id={"yes": 0, "no": 1})
    base = load_base(str(folder), label_names=["no", "yes"])
    assert (base.settings.label2id, base.new_head) == ({"yes": 0, "no": 1}, ())
    other = load_base(str(folder), label_names=["down", "up"])
    assert other.settings.label2id == {"down": 0, "up": 1}


def test_an_incomplete_or_torn_checkpoint_is_refused(tmp_path: Path) -> None:
    """Transformers would draw the missing layers at random and go on."""
    from safetensors.torch import load_file, save_file

    folder = bert(tmp_path / "b")
    file = folder / "model.safetensors"
    whole = load_file(file)
    save_file({k: v for k, v in whole.items() if "layer.1." not in k}, file, metadata={"format": "pt"})
    with pytest.raises(
        BaseModelError, match=r"lack 16 weights that are no part of a head, .* such as bert.encoder.layer.1.attention"
    ):
        load_base(str(folder), label_names=["no", "yes"])
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(BaseModelError, match=r"its safetensors cannot be loaded \(.*\); fetch the folder again"):
        load_base(str(folder), label_names=["no", "yes"])


def test_a_tokenizer_or_image_processor_that_is_absent_or_broken(tmp_path: Path) -> None:
    folder = bert(tmp_path / "b")
    for file in folder.glob("tok*"):
        file.unlink()
    with pytest.raises(BaseModelError, match=r"has no tokenizer files \(tokenizer.json or a vocabulary\)"):
        load_base(str(folder), label_names=["no", "yes"])
    vit = tmp_path / "vit"
    shutil.copytree(EMBEDDED, vit)
    assert load_base(str(vit)).processor is None
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}, "image_mean": [0.5]}
    (vit / "preprocessor_config.json").write_text(json.dumps({**settings, "image_std": [0.25]}))
    assert list(load_base(str(vit)).processor.image_std) == [0.25]
    (vit / "preprocessor_config.json").write_text("{broken")
    with pytest.raises(BaseModelError, match=r"its image processor cannot be loaded: .*not a valid JSON"):
        load_base(str(vit))


def test_a_decoder_needs_a_padding_token_to_classify_a_batch(tmp_path: Path) -> None:
    folder = bert(tmp_path / "b")
    config = transformers.GPT2Config(
        vocab_size=30, n_embd=16, n_layer=1, n_head=2, n_positions=16, bos_token_id=3, eos_token_id=3
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    with pytest.raises(
        BaseModelError, match=r'names no pad_token_id, without which a gpt2 model cannot .* "pad_token_id": 0'
    ):
        load_base(str(folder), "text-classification", label_names=["no", "yes"])
    config.pad_token_id = 0
    config.save_pretrained(folder)
    base = load_base(str(folder), "text-classification", label_names=["no", "yes"])
    assert base.new_head == ("score",)
    with torch.no_grad():
        padded = base.model(input_ids=torch.tensor([[5, 6, 0], [5, 6, 7]])).logits
        alone = base.model(input_ids=torch.tensor([[5, 6]])).logits
    torch.testing.assert_close(padded[:1], alone)


def test_bf16(tmp_path: Path) -> None:
    base = load_base(str(bert(tmp_path / "b")), label_names=["no", "yes"], compute_dtype="bf16")
    assert {p.dtype for p in base.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/nonexistent/model", r"--base /nonexistent/model: no such folder; give a model folder .* or a hub name"),
        (
            "nobody/nothing-here",
            r"--base nobody/nothing-here: is no folder here, and no hub model of that name could be reached",
        ),
    ],
)
def test_a_base_that_is_not_there(name: str, message: str) -> None:
    with pytest.raises(BaseModelError, match=message):
        load_base(name)


def test_a_file_an_empty_folder_and_a_pickle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(BaseModelError, match=r"is a file; give the folder that holds config.json"):
        load_base(str(tmp_path / "f"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BaseModelError, match=r"has no config.json; give a model folder"):
        load_base(str(tmp_path / "empty"))
    folder = bert(tmp_path / "b")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(
        BaseModelError, match=r"has only pytorch_model.bin, a pickle, .*save_pretrained\(FOLDER\) writes safetensors"
    ):
        load_base(str(folder), label_names=["no", "yes"])


def test_code_of_a_repository_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config"}}))
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(BaseModelError, match=r"it needs code from its own repository, which archrank does not run"):
        load_base(str(tmp_path))


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        BaseModelError, match=r"a bert model cannot do image-classification; choose another base or --task"
    ):
        load_base(str(bert(tmp_path / "b")), "image-classification")


def test_all_linear_is_the_blocks_layers(tiny: object, kind: str) -> None:
    """No head, no embedding, no pooler, and Conv1D as (out, in)."""
    model: nn.Module = tiny(kind)  # type: ignore[operator]
    found = target_modules(model, "all-linear")
    layers = {"vit": 6, "bert": 6, "llama": 7, "gpt2": 4}[kind]
    assert len(found) == 2 * layers
    assert not any(word in name for name in found for word in ("classifier", "lm_head", "pooler", "embed"))
    if kind == "gpt2":
        assert found["transformer.h.0.attn.c_attn"] == (96, 32)
    if kind == "llama":
        assert found["model.layers.1.self_attn.k_proj"] == (16, 32)
    assert set(found) <= set(adaptable(model))


def test_patterns_mean_what_peft_means(tiny: object) -> None:
    model: nn.Module = tiny("bert")  # type: ignore[operator]
    assert len(target_modules(model, "query,value")) == 4
    assert list(target_modules(model, r".*\.1\.attention\.self\.query")) == [
        "bert.encoder.layer.1.attention.self.query"
    ]
    with pytest.raises(ModuleError, match=r"target_modules 'qurey' matches no module; did you mean query"):
        target_modules(model, "qurey")


def test_shapes_need_no_weights(tmp_path: Path) -> None:
    folder = bert(tmp_path / "b")
    (folder / "model.safetensors").unlink()
    assert module_shapes(str(folder), "query") == {
        f"bert.encoder.layer.{i}.attention.self.query": (16, 16) for i in (0, 1)
    }
    assert len(module_shapes(None, "all-linear")) == 18
