"""Every shipped space: stock Lark loads it, it lints clean, and its sentences work."""

from __future__ import annotations

import lark
import numpy as np
import pytest

from archrank import grammar, spaces


def vit(width: int = 768, layers: int = 12) -> dict[str, tuple[int, int]]:
    names = {"attention.attention.query": (width, width), "attention.attention.key": (width, width),
             "attention.attention.value": (width, width), "attention.output.dense": (width, width),
             "intermediate.dense": (4 * width, width), "output.dense": (width, 4 * width)}  # fmt: skip
    return {f"vit.encoder.layer.{i}.{name}": shape for i in range(layers) for name, shape in names.items()}


def bert(width: int = 32, layers: int = 2) -> dict[str, tuple[int, int]]:
    return {name.replace("vit.", "bert."): shape for name, shape in vit(width, layers).items()}


def llama(layers: int = 32) -> dict[str, tuple[int, int]]:
    names = {"self_attn.q_proj": (4096, 4096), "self_attn.k_proj": (1024, 4096),
             "self_attn.v_proj": (1024, 4096),
             "self_attn.o_proj": (4096, 4096), "mlp.gate_proj": (14336, 4096), "mlp.up_proj": (14336, 4096),
             "mlp.down_proj": (4096, 14336)}  # fmt: skip
    return {f"model.layers.{i}.{name}": shape for i in range(layers) for name, shape in names.items()}


def gpt2(width: int = 768, layers: int = 12) -> dict[str, tuple[int, int]]:
    names = {"attn.c_attn": (3 * width, width), "attn.c_proj": (width, width), "mlp.c_fc": (4 * width, width),
             "mlp.c_proj": (width, 4 * width)}  # fmt: skip
    return {f"transformer.h.{i}.{name}": shape for i in range(layers) for name, shape in names.items()}


BASES = {"vit": vit(), "bert": bert(), "llama": llama(), "gpt2": gpt2()}


@pytest.mark.parametrize("name", spaces.available())
def test_loads_lints_clean_and_has_a_summary(name: str) -> None:
    space = spaces.load(name)
    lark.Lark.open(str(spaces.path(name)), parser="lalr")
    assert [lint for lint in space.lints if lint.code != "branching"] == []
    assert 10 < len(spaces.summary(name)) < 120
    assert name in grammar.shipped()
    assert grammar.load(name).text == space.text


@pytest.mark.parametrize("base", BASES)
def test_lora_ranks_binds_to_any_transformer(base: str) -> None:
    shapes, rng = BASES[base], np.random.default_rng(0)
    space = spaces.load("lora_ranks").bind(shapes)
    stock = lark.Lark(space.text, parser="lalr")
    assert [site.name for site in space.sites] == list(shapes)
    for d in space.sample(rng, 5):
        stock.parse(d.text)
        assert space.parse(d.text) == d
        assert space.meets(space.mutate(d, rng))
    uniform = space.from_ranks(dict.fromkeys(shapes, 16))
    assert space.meets(uniform)
    assert space.cost(uniform).adapter_params == 16 * sum(map(sum, shapes.values()))


def test_the_bound_of_lora_ranks_holds_rank_16_on_common_bases() -> None:
    bound = spaces.load("lora_ranks").bounds["adapter_params"]
    assert bound == 64e6
    assert 16 * sum(map(sum, llama().values())) == 41_943_040 < bound


def test_unknown_names_are_answered_with_near_ones() -> None:
    with pytest.raises(
        grammar.SpaceError,
        match=r"no shipped space 'lora_rank'; did you mean lora_ranks\? "
        r"Shipped:",
    ):
        spaces.load("lora_rank")
    assert spaces.summary("lora_ranks") == "an adapter and its rank for each linear layer of a transformer"
