"""Groups of modules that share a rank under `nls`: by kind, by layer, or as the user names them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from archrank.search.config import ConfigError, RunConfig
from archrank.search.job import prepare
from archrank.supernet import policies
from archrank.supernet.policies.base import PolicyError
from archrank.supernet.policies.nls import NLS, layer_of

LLAMA = [
    f"model.layers.{i}.{name}"
    for i in range(2)
    for name in (*(f"self_attn.{n}_proj" for n in "qkvo"), "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
]


def nls(name: str = "nls", groups: tuple[str, ...] = (), modules: list[str] = LLAMA) -> NLS:
    found = policies.load(name)
    assert issubclass(found, NLS)
    return found(dict.fromkeys(modules, (32, 32)), 8, seed=1, ranks=[0, 2, 4, 8], groups=groups)


def test_the_default_groups_are_query_key_value_and_gate_up_of_each_layer() -> None:
    assert nls().groups == [0, 0, 0, 1, 2, 2, 3, 4, 4, 4, 5, 6, 6, 7]
    bert = [f"encoder.layer.0.attention.self.{n}" for n in ("query", "key", "value")] + [
        "encoder.layer.0.attention.output.dense",
        "encoder.layer.0.output.dense",
    ]
    assert nls(modules=bert).groups == [0, 0, 0, 1, 2]


def test_one_group_a_layer() -> None:
    assert nls("nls:layer").groups == [0] * 7 + [1] * 7
    assert nls("nls:layer", modules=["a.q", "a.k", "b.q"]).groups == [0, 0, 1]


def test_the_users_groups_hold_within_a_layer_and_the_rest_stands_alone() -> None:
    policy = nls(groups=("q_proj,v_proj", r".*\.mlp\..*"))
    assert policy.groups == [0, 1, 0, 2, 3, 3, 3, 4, 5, 4, 6, 7, 7, 7]
    assert nls(groups=("all-linear",)).groups == [0] * 7 + [1] * 7


def test_groups_share_a_rank_of_the_list_and_groups_differ() -> None:
    policy = nls(groups=("q_proj,v_proj",))
    ranks = torch.stack([policy.spectrum(step, [0, 1]).sum(-1) for step in range(60)])
    assert torch.equal(ranks[:, 0], ranks[:, 1]), "all samples of a step alike"
    assert torch.equal(ranks[..., 0], ranks[..., 2])
    assert not torch.equal(ranks[..., 0], ranks[..., 1])
    assert not torch.equal(ranks[..., 0], ranks[..., 7]), "another layer"
    assert set(ranks.flatten().tolist()) == {2.0, 4.0, 8.0}


def test_the_heuristics_are_the_middle_of_the_list_and_what_was_drawn_most() -> None:
    policy = nls()
    assert set(policy.median().values()) == {4}
    drawn = [policy.drawn(step) for step in range(9)]
    most = policy.most(9)
    for place, name in enumerate(LLAMA):
        counts = {r: sum(int(d[place]) == r for d in drawn) for r in (2, 4, 8)}
        assert counts[most[name]] == max(counts.values())
    assert most[LLAMA[0]] == most[LLAMA[1]] == most[LLAMA[2]]


def test_a_layer_is_the_name_up_to_its_last_number() -> None:
    assert layer_of("model.layers.11.mlp.up_proj") == "model.layers.11"
    assert layer_of("layers.3.experts.7.w1") == "layers.3.experts.7"
    assert layer_of("decoder.fc1") == "decoder"
    assert layer_of("fc1") == ""


def test_groups_that_cannot_be_are_told(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"group 'qurey': target_modules 'qurey' matches no module; .*q_proj"):
        nls(groups=("qurey",))
    with pytest.raises(PolicyError, match=r"group 'v_proj,o_proj': model\.layers\.0\.self_attn\.v_proj is in the"):
        nls(groups=("q_proj,v_proj", "v_proj,o_proj"))
    with pytest.raises(ConfigError, match="--rank-group q,k: policy full draws no ranks by groups; add --policy nls"):
        prepare(RunConfig(rank_group=("q,k",)))


def test_a_run_takes_the_groups(tmp_path: Path) -> None:
    job = prepare(RunConfig(policy="nls", rank_group=("q_proj,k_proj,v_proj,o_proj", "fc1,fc2")))
    assert isinstance(job.policy, NLS)
    assert len(set(job.policy.groups)) == 3 * 2
