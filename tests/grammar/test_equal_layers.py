"""Candidates over an encoder's layers that need no search."""

from __future__ import annotations

import numpy as np
import pytest

from archrank import grammar, spaces
from archrank.grammar.equal_layers import alike

LAYERS = {f"encoder.layer.{i}": grammar.EncoderLayer(32, 4, 8, 64) for i in range(3)}
SHARES, RANKS = (25, 50, 75, 100), (0, 1, 2, 4, 8, 16)
UNFIT = (25, 16)
"""One head is 8 wide."""


def bound(name: str) -> grammar.Space:
    return spaces.load(name).bind_layers(LAYERS, length=10)


def cut(heads: int, ffn: int, rank: int) -> grammar.LayerChoice:
    pairs = [(role, rank) for role in ("q", "k", "v", "o", "up", "down") if rank]
    return grammar.LayerChoice(True, heads, ffn, tuple(pairs))


@pytest.mark.parametrize("name", ["elastic_encoder", "elastic_ensemble"])
def test_they_are_the_narrowed_and_the_shortened_networks(name: str) -> None:
    space = bound(name)
    made = [space.ensemble_choices(d).members for d in space.equal_layers()]
    found = [list(members[0].values()) for members in made if len(members) == 1]
    narrow = [
        [cut(4 * share // 100, 64 * share // 100, rank)] * 3
        for share in SHARES
        for rank in RANKS
        if (share, rank) != UNFIT
    ]
    dropped = grammar.LayerChoice(False)
    short = [[cut(4, 64, rank)] * left + [dropped] * (3 - left) for rank in RANKS for left in (1, 2)]
    assert found == narrow + short


@pytest.mark.parametrize("many", [2, 3])
def test_members_of_an_ensemble_are_cut_alike_and_differ_in_rank(many: int) -> None:
    space = bound("elastic_ensemble")
    found = [c for c in map(space.ensemble_choices, space.equal_layers()) if len(c.members) == many]
    assert len(found) == 2 * (len(SHARES) * len(RANKS) - 1)
    for choice in found:
        assert not choice.coinciding
        cuts = [[(c.kept, c.heads, c.ffn) for c in member.values()] for member in choice.members]
        assert len(set(cuts[0])) == 1
        assert all(cut == cuts[0] for cut in cuts)
        for i, name in enumerate(LAYERS):
            ranks = [dict(member[name].ranks).get("q", 0) for member in choice.members]
            assert len(set(ranks)) == (1 if i < choice.split else many)


def test_what_left_the_space_is_in_none_of_them() -> None:
    space = bound("elastic_encoder")
    rng = np.random.default_rng(0)
    texts = {space.production_name(p): p for d in space.sample(rng, 60) for p in space.choices(d)}
    smaller = space.without([texts["SHARE@encoder.layer.1 = 75%"], texts["body@encoder.layer.2 = drop"]])
    found = [list(smaller.layer_choices(d).values()) for d in smaller.equal_layers()]
    assert len(found) == 3 * len(RANKS) - 1, "neither 75 % nor a base without its upper layers"
    assert {c.heads for choices in found for c in choices} == {1, 2, 4}


def test_they_keep_the_bounds() -> None:
    text = (
        spaces.path("elastic_encoder")
        .read_text()
        .replace("//@ max adapter_params = 64M", "//@ max adapter_params = 2K")
    )
    space = grammar.loads(text).bind_layers(LAYERS, length=10)
    found = space.equal_layers()
    assert 0 < len(found) < len(bound("elastic_encoder").equal_layers())
    assert all(space.meets(d) for d in found)


def test_a_rule_within_itself_ends() -> None:
    text = 'start: "a" -> a | "(" start ")" -> deeper | "[" pair "]" -> two\npair: DIGIT DIGIT\nDIGIT: "1" | "2"\n'
    space = grammar.loads(text)
    assert [space.trees().derivation(c).text for c in alike(space._grammar)] == ["a", "[11]", "[22]"]


def test_other_spaces_have_no_layers() -> None:
    with pytest.raises(ValueError, match="equal_layers: einspace is not bound to the layers of a base"):
        spaces.load("einspace").equal_layers()
