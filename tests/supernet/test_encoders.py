"""Heads and FFN of encoders, whatever a model calls them."""

from __future__ import annotations

import pytest
import torch
import transformers

from archrank import spaces
from archrank.grammar import EncoderLayer
from archrank.supernet.base import layer_shapes
from archrank.supernet.encoders import EncoderError, encoder_layers, find_layers

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
MODELS = {
    "bert.encoder.layer": lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL)),
    "roberta.encoder.layer": lambda: transformers.RobertaModel(transformers.RobertaConfig(**SMALL)),
    "vit.layers": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL)),
    "transformer.layer": lambda: transformers.DistilBertModel(
        transformers.DistilBertConfig(dim=24, n_layers=2, n_heads=3, hidden_dim=40)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_layers_are_found_by_their_shapes(name: str) -> None:
    with torch.device("meta"):
        model = MODELS[name]()
    found = find_layers(model)
    modules = dict(model.named_modules())
    ending = name.split(".", 1)[1] if name.startswith("roberta") else name
    assert [layer.endswith(f"{ending}.{i}") for i, layer in enumerate(found)] == [True, True]
    for layer in found.values():
        assert layer.sizes == EncoderLayer(24, 3, 8, 40)
        shapes = {role: tuple(modules[n].weight.shape) for role, n in layer.names.items()}
        assert shapes == dict.fromkeys("qkvo", (24, 24)) | {"up": (40, 24), "down": (24, 40)}
    bound = spaces.load("elastic_encoder").bind_layers(encoder_layers(model))
    assert list(bound.layers) == list(found)


def test_the_embedded_base_is_one() -> None:
    layers = layer_shapes(None)
    assert len(layers) == 3
    assert next(iter(layers.values())).hidden > 0


def test_a_decoder_is_refused_with_what_it_has() -> None:
    config = transformers.LlamaConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=3, num_key_value_heads=1, intermediate_size=40
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    with pytest.raises(EncoderError, match=r"is no layer of a BERT- or ViT-like encoder: .* it has self_attn.q_proj"):
        find_layers(model)
    with pytest.raises(EncoderError, match=r"Linear: its configuration names no num_attention_heads"):
        find_layers(torch.nn.Linear(2, 2))
