"""Pretrained encoders cut to their important heads and channels, and ensembles of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from archrank.grammar import LayerChoice
from archrank.supernet import elastic, ensemble, load_cut
from archrank.supernet.elastic_encoder import ElasticEncoder
from archrank.supernet.shared_trunk import diversity

Make = Callable[[str], nn.Module]
KINDS = ("bert", "roberta", "distilbert", "vit")


def inputs_of(kind: str) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(5)
    if kind == "vit":
        return {"pixel_values": torch.randn(4, 1, 8, 8, generator=g)}
    ids = torch.randint(3, 60, (4, 9), generator=g)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def net_of(make: Make, kind: str) -> ElasticEncoder:
    data = [{**inputs_of(kind), "labels": torch.tensor([0, 1, 2, 0])}]
    net = elastic(make(kind), "elastic_encoder", r_max=4, data=data).eval()
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.adapters.parameters():
            p.normal_(0, 0.1, generator=g)
    return net


def logits(model: nn.Module, kind: str) -> Tensor:
    with torch.no_grad():
        out: Tensor = model.eval()(**inputs_of(kind)).logits
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_slices_are_plain_modules_and_agree_with_the_closed_forms(tiny: Make, kind: str) -> None:
    net = net_of(tiny, kind)
    before = logits(net.base, kind)
    for d in net.space.sample(np.random.default_rng(0), n=8):
        net.select(d)
        sub = net.extract(d)
        torch.testing.assert_close(logits(net, kind), logits(sub.module, kind), atol=1e-5, rtol=0)
        module = sub.unmerged()
        layers = next(m for m in module.modules() if isinstance(m, nn.ModuleList))
        arch = net.space.elaborate(d)
        assert sum(p.numel() for p in layers.parameters()) == arch.params
        none = net.extract({name: LayerChoice(False) for name in net.layers}).module
        counts = []
        for model in (module, none):
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
                model.eval()(**{k: v[:1] for k, v in inputs_of(kind).items()})
            counts.append(counter.get_total_flops())
        assert counts[0] - counts[1] == arch.flops
    assert torch.equal(logits(net.base, kind), before)


@pytest.mark.parametrize("kind", KINDS)
def test_folders_load_where_they_say(tiny: Make, kind: str, tmp_path: Path) -> None:
    net = net_of(tiny, kind)
    whole = LayerChoice(True, 4, 32, (("q", 2),))
    first, second = net.layers
    uniform, mixed = {first: whole, second: whole}, {first: whole, second: LayerChoice(True, 2, 48)}
    sub = net.extract(uniform)
    model, info = type(net.base).from_pretrained(sub.save_merged(tmp_path / "a"), output_loading_info=True)  # type: ignore[attr-defined]
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(logits(model, kind), logits(sub.module, kind))
    sub = net.extract(mixed)
    folder = sub.save_merged(tmp_path / "b")
    with pytest.raises(OSError, match=r"Error no file named model\.safetensors"):
        type(net.base).from_pretrained(folder)  # type: ignore[attr-defined]
    assert torch.equal(logits(load_cut(folder), kind), logits(sub.module, kind))
    padded = type(net.base).from_pretrained(sub.save_padded(tmp_path / "c"))  # type: ignore[attr-defined]
    torch.testing.assert_close(logits(padded, kind), logits(sub.module, kind), atol=1e-5, rtol=0)


def test_the_important_heads_stay(tiny: Make) -> None:
    net = net_of(tiny, "bert")
    assert net.order is not None
    name = next(iter(net.layers))
    heads, _ = net.order.scores[name]
    cut = net.cuts(net.choices({name: LayerChoice(True, 1, 64)}))[name]
    assert cut.heads == (int(heads.argmax()),)


def test_ensembles(tiny: Make) -> None:
    net = net_of(tiny, "bert")
    _, second = net.layers
    a, b = {second: LayerChoice(True, 2, 32)}, {second: LayerChoice(True, 4, 16)}
    alone = [logits(net.extract(c).module, "bert") for c in (a, b)]
    assert torch.equal(logits(ensemble(net, [a], split=1), "bert"), alone[0])
    both = ensemble(net, [a, b], split=1)
    torch.testing.assert_close(logits(both, "bert"), (alone[0] + alone[1]) / 2)
    assert not both.coinciding
    assert float(diversity(alone)) > 0
    with pytest.warns(UserWarning, match="members of the ensemble coincide from layer 1 on: 0 and 1"):
        ensemble(net, [a, a], split=1)
    with pytest.raises(ValueError, match=r"split 3 is outside 0 … 2"):
        ensemble(net, [a], split=3)
    with pytest.raises(ValueError, match="needs at least one member"):
        ensemble(net, [], split=0)


def test_a_population_is_evaluated_as_its_modules_are(tiny: Make) -> None:
    net = net_of(tiny, "bert")
    labels = torch.tensor([0, 1, 2, 0])
    whole = {**inputs_of("bert"), "labels": labels}
    data = [{k: v[:3] for k, v in whole.items()}, {k: v[3:] for k, v in whole.items()}]
    configs = net.space.sample(np.random.default_rng(4), n=3)
    told = net.train().evaluate(configs, data)
    assert net.training
    truth = [nn.functional.cross_entropy(logits(net.extract(d).module, "bert"), labels) for d in configs]
    torch.testing.assert_close(told, torch.stack(truth).double(), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"method 'gated': cut encoders are evaluated one after the other"):
        net.evaluate(configs, data, method="gated")
    with pytest.raises(ValueError, match="labels"):
        net.evaluate(configs, [inputs_of("bert")])


REFUSED = {
    "mpnet": lambda t, few: t.MPNetForSequenceClassification(t.MPNetConfig(**few, intermediate_size=40)),
    "deberta": lambda t, few: t.DebertaV2ForSequenceClassification(
        t.DebertaV2Config(
            **few, intermediate_size=40, relative_attention=True, share_att_key=True, pos_att_type=["p2c", "c2p"]
        )
    ),
    "albert": lambda t, few: t.AlbertForSequenceClassification(
        t.AlbertConfig(**few, intermediate_size=40, embedding_size=16)
    ),
    "beit": lambda t, few: t.BeitForImageClassification(
        t.BeitConfig(
            hidden_size=20, num_hidden_layers=2, num_attention_heads=5, image_size=8, patch_size=4, num_channels=1,
            intermediate_size=40, use_relative_position_bias=True,
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_encoders_that_cannot_be_cut_are_told_before_anything_is_trained(name: str) -> None:
    few = {"vocab_size": 50, "hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 5}
    text = r"runs 2 times in one forward, so its layers share" if name == "albert" else "with the others silenced"
    with pytest.raises(ValueError, match=rf"{text}.*; encoders that can be cut: BERT, RoBERTa"):
        elastic(REFUSED[name](transformers, few), "elastic_encoder")


@pytest.mark.parametrize("kind", ["Dinov2", "Beit"])
@pytest.mark.parametrize("dropped", [False, True])
def test_backbones_go_home_with_fewer_layers_and_narrower_ones(kind: str, dropped: bool, tmp_path: Path) -> None:
    few = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 8, "patch_size": 4}
    own = {"mlp_ratio": 2} if kind == "Dinov2" else {"intermediate_size": 64}
    cls = getattr(transformers, f"{kind}ForImageClassification")
    base = cls(getattr(transformers, f"{kind}Config")(**few, **own, num_labels=2)).eval()
    pixels = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    net = elastic(base, "elastic_encoder", data=[{"pixel_values": pixels, "labels": torch.tensor([0, 1, 0, 1])}])
    first, *rest = net.layers
    sub = net.extract(
        {first: LayerChoice(not dropped, 4, 40), **{n: LayerChoice(True, 2 + i, 40) for i, n in enumerate(rest)}}
    )
    with torch.no_grad():
        wanted = sub.module(pixel_values=pixels).logits
        again = load_cut(sub.save_merged(tmp_path / "cut"))(pixel_values=pixels).logits
        padded = cls.from_pretrained(sub.save_padded(tmp_path / "padded")).eval()(pixel_values=pixels).logits
    torch.testing.assert_close(again, wanted)
    torch.testing.assert_close(padded, wanted, atol=1e-5, rtol=0)


def test_bad_input_is_told(tiny: Make) -> None:
    net = elastic(tiny("bert"), "elastic_encoder", r_max=4)
    first = next(iter(net.layers))
    with pytest.raises(ValueError, match=r"no importances were measured: give data="):
        net.select({first: LayerChoice(True, 2, 64)})
    with pytest.raises(ValueError, match="data holds no batch"):
        elastic(tiny("bert"), "elastic_encoder", data=[])
    with pytest.raises(ValueError, match=r"5 heads are outside 1 … 4"):
        net.select({first: LayerChoice(True, 5, 64)})
    with pytest.raises(ValueError, match=r"rank 9 of q is outside 0 … 4"):
        net.select({first: LayerChoice(True, 4, 64, (("q", 9),))})
    for wrong in ({first: 4}, None):
        with pytest.raises(
            TypeError, match=r"a sub-network is \{layer: LayerChoice\} or a derivation of net\.space, not"
        ):
            net.select(wrong)  # type: ignore[arg-type]
    for r_max in (0, 2.5):
        with pytest.raises(ValueError, match=rf"r_max {r_max}: components an adapter are a whole number of at least 1"):
            elastic(tiny("bert"), "elastic_encoder", r_max=r_max)  # type: ignore[arg-type]
    batch = {**inputs_of("bert"), "labels": torch.tensor([0, 1, 2, 0])}
    with pytest.raises(ValueError, match="a batch for importances is str, no dict of tensors: give data="):
        elastic(tiny("bert"), "elastic_encoder", data=batch)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"BertModel answers labels with no loss.*load the base with the head of its task"
    ):
        elastic(tiny("bert").bert, "elastic_encoder", data=[batch])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no layer 'nothing'"):
        net.select({"nothing": LayerChoice(False)})
    with pytest.raises(ValueError, match="is no layer of a BERT- or ViT-like encoder"):
        elastic(tiny("llama"), "elastic_encoder")
    assert transformers.BertForSequenceClassification is type(net.base)


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow if k != "vit" else ()) for k in KINDS])
def test_onnx_and_the_adapter_answer_as_the_module(tiny: Make, kind: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    import peft

    net = net_of(tiny, kind)
    first, second = net.layers
    sub = net.extract({first: LayerChoice(False), second: LayerChoice(True, 2, 48, (("q", 2), ("down", 1)))})
    session = runtime.InferenceSession(str(sub.export_onnx(tmp_path / "m.onnx")))
    given = {i.name: inputs_of(kind)[i.name].numpy() for i in session.get_inputs()}
    torch.testing.assert_close(torch.as_tensor(session.run(None, given)[0]), sub.logits(inputs_of(kind)))
    folder = sub.save_pretrained(tmp_path / "adapter")
    stock = (folder / "base" / "config.json").exists()
    assert stock == (kind == "vit")  # the one whose configuration can say a head's width
    base = type(net.base).from_pretrained(folder / "base") if stock else load_cut(folder / "base")  # type: ignore[attr-defined]
    model = peft.PeftModel.from_pretrained(base, str(folder))
    torch.testing.assert_close(logits(model, kind), sub.logits(inputs_of(kind)), atol=1e-5, rtol=0)
