"""Ensembles as sentences: K and the split are productions, members share their trunk, costs count it once."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest

from archrank import grammar, spaces
from archrank.grammar.coincidence import coinciding
from archrank.grammar.heads import member_outputs, with_head

LAYERS = {f"encoder.layer.{i}": grammar.EncoderLayer(32, 4, 8, 64) for i in range(3)}
WHOLE = "keep(heads=100%,ffn=100%,q=none,k=none,v=none,o=none,up=none,down=none)"
HALF = "keep(heads=50%,ffn=50%,q=lora(2),k=none,v=none,o=none,up=none,down=none)"
NETWORK = "ensemble2(split2(conv(3,8),conv(3,16)|{}|{}))"
FILE = spaces.path("elastic_ensemble").read_text()


def layers(*bodies: str, first: int = 0) -> str:
    return " ".join(f"encoder.layer.{first + i}:{body}" for i, body in enumerate(bodies))


def bound() -> grammar.Space:
    return spaces.load("elastic_ensemble").bind_layers(LAYERS, length=10)


def test_members_of_a_network_share_a_trunk_and_have_heads_of_their_own() -> None:
    space = spaces.load("ensemble_cnn")
    a, b = "conv(3,16),conv(3,16)", "conv(5,8),conv(1,32)"
    arch = space.elaborate(space.parse(NETWORK.format(a, b)))
    assert [op.op for op in arch.ops] == ["conv_block"] * 2 + ["fork"] + ["conv_block"] * 4 + ["members"]
    assert arch.shape == (16 + 32,)
    headed = with_head(arch, 10)
    singles = [with_head(space.elaborate(space.parse(f"single(conv(3,8),conv(3,16),{tail})")), 10) for tail in (a, b)]
    trunk = sum(op.params for op in arch.ops[:2]), sum(op.flops for op in arch.ops[:2])
    assert headed.params == sum(s.params for s in singles) - trunk[0]
    assert headed.flops == sum(s.flops for s in singles) - trunk[1] == headed.workload().flops
    assert [headed.ops[i].shape for i in member_outputs(headed)] == [(10,), (10,)]
    assert headed.shape == (10,)
    assert member_outputs(singles[0]) == () == coinciding(singles[0])


def test_an_architecture_from_another_process_has_the_same_members() -> None:
    """There its ops are equal to those here and not the same objects, as in a deep copy."""
    space = spaces.load("ensemble_cnn")
    a = "conv(3,16),conv(3,16)"
    copied = deepcopy(space.elaborate(space.parse(NETWORK.format(a, a))))
    assert coinciding(copied) == ((0, 1),)
    headed = with_head(copied, 10)
    assert len(member_outputs(headed)) == len(member_outputs(deepcopy(headed))) == 2


def test_members_have_no_order_and_one_member_is_the_single_network() -> None:
    space = spaces.load("ensemble_cnn")
    a, b = "conv(3,16),conv(3,16)", "conv(5,8),conv(1,32)"
    assert space.parse(NETWORK.format(a, b)).key == space.parse(NETWORK.format(b, a)).key
    assert space.parse(NETWORK.format(a, b)).key != space.parse(NETWORK.format(a, a)).key
    one = grammar.loads(
        '//@ input = 1x8x8\nstart: "e" "(" b "," b ")" -> ensemble1\n | "s" "(" b "," b ")" -> seq\n'
        'b: "c" "(" W ")" -> linear\nW: "2" | "3"\n%ignore /\\s+/\n'
    )
    alone, single = one.parse("e(c(2),c(3))"), one.parse("s(c(2),c(3))")
    assert alone.key == single.key
    assert [op.op for op in one.elaborate(alone).ops] == [op.op for op in one.elaborate(single).ops]


def test_coinciding_members_are_named() -> None:
    space = spaces.load("ensemble_cnn")
    a = "conv(3,16),conv(3,16)"
    same = space.elaborate(space.parse(NETWORK.format(a, a)))
    assert coinciding(same) == coinciding(with_head(same, 10)) == ((0, 1),)
    assert coinciding(space.elaborate(space.parse(NETWORK.format(a, "conv(1,16),conv(3,16)")))) == ()


def test_an_ensemble_may_stand_in_any_grammar() -> None:
    """Behind a trunk of einspace's own modules, of members whose shapes differ."""
    text = spaces.path("einspace").read_text()
    text = text.replace("start: network\n", "start: both\nboth: network | ens\n")
    text = text.replace("both: network | ens", 'both: "one" "(" network ")" -> leaf\n'
                        '    | "two" "(" network "," module "," module ")" -> ensemble2')  # fmt: skip
    space = grammar.loads(text, "einspace_ensembles").with_input((1, 8, 8)).within(flops=(None, 1e8))
    rng, seen = np.random.default_rng(0), 0
    for d in space.sample(rng, 60):
        arch = with_head(space.elaborate(d), 10)
        members = member_outputs(arch)
        seen += len(members) == 2
        assert arch.shape == (10,)
        assert space.parse(d.text) == d
        child = space.mutate(d, rng)
        assert with_head(space.elaborate(child), 10).shape == (10,)
    assert seen > 10


@pytest.mark.parametrize(
    ("alias", "message"),
    [
        ("ensemble2", r"ensemble2 is a trunk and 2 members, not 2 parts"),
        ("ensemble", r"alias ensemble: ensemble wants a number at its end"),
        ("ensemble0", r"ensemble0: from 1 to 64 members"),
        ("option1", r"option1 is one part alone, not 2"),
    ],
)
def test_structures_with_other_parts_are_refused(alias: str, message: str) -> None:
    with pytest.raises(grammar.SpaceError, match=message):
        grammar.loads(f'//@ input = 4x4\nstart: "e" "(" b "," b ")" -> {alias}\nb: "i" -> id\n%ignore /\\s+/\n')


# -- over the layers of an encoder


def test_sentences_over_layers_say_members_and_split() -> None:
    space = bound()
    text = f"ensemble2(1: {layers(WHOLE)}| {layers(HALF, 'drop', first=1)}| {layers(WHOLE, HALF, first=1)})"
    d = space.parse(text)
    assert d.text == text
    found = space.ensemble_choices(d)
    whole, half = grammar.LayerChoice(True, 4, 64), grammar.LayerChoice(True, 2, 32, (("q", 2),))
    names = list(LAYERS)
    assert (found.split, found.coinciding) == (1, ())
    assert found.members == (
        dict(zip(names, (whole, half, grammar.LayerChoice(False)), strict=True)),
        dict(zip(names, (whole, whole, half), strict=True)),
    )
    single = space.parse(f"single({layers(WHOLE, HALF, 'drop')})")
    assert space.ensemble_choices(single).members == (space.layer_choices(single),)
    assert space.ensemble_choices(single).split == 3
    alone = [space.elaborate(space.parse(f"single({layers(WHOLE, *own)})")) for own in ((HALF, "drop"), (WHOLE, HALF))]
    trunk = space.elaborate(space.parse(f"single({layers(WHOLE, 'drop', 'drop')})"))
    arch = space.elaborate(d)
    assert arch.flops == alone[0].flops + alone[1].flops - trunk.flops
    assert arch.params == alone[0].params + alone[1].params - trunk.params
    with pytest.raises(ValueError, match=r"is an ensemble of 2 members; ensemble_choices gives them"):
        space.layer_choices(d)


def test_samples_and_variations_of_ensembles_over_layers_are_valid() -> None:
    space, rng = bound(), np.random.default_rng(0)
    counts = {1: 0, 2: 0, 3: 0}
    for d in space.sample(rng, 60):
        found = space.ensemble_choices(d)
        counts[len(found.members)] += 1
        assert all(m[name] == found.members[0][name] for m in found.members for name in list(LAYERS)[: found.split])
        assert space.parse(d.text) == d
        assert space.decode(space.encode(d)) == d
        child = space.mutate(d, rng)
        assert child.key != d.key
        assert space.meets(space.crossover(d, child, rng))
    assert min(counts.values()) > 5
    same = layers(HALF, first=2)
    d = space.parse(f"ensemble2(2: {layers(WHOLE, WHOLE)}| {same}| {same})")
    assert space.ensemble_choices(d).coinciding == ((0, 1),) == coinciding(space.elaborate(d))


def test_splits_that_a_base_has_no_layers_for_are_left_out() -> None:
    space, one = spaces.load("elastic_ensemble"), {"l": grammar.EncoderLayer(32, 4, 8, 64)}
    alone = space.bind_layers(one)
    assert alone.size() == 1 + 16 * 6**6
    assert alone.log_prob(alone.parse("single( l:drop)")) == pytest.approx(np.log(0.1))
    with pytest.raises(grammar.SpaceError, match=r"found '3' where SPLIT@ensemble2: \"1\", \"2\" is"):
        bound().parse(f"ensemble2(3: {layers(WHOLE, WHOLE, WHOLE)}|")
    file = FILE[: FILE.index("start:")] + FILE[FILE.index("start:") :].replace(
        '"single" "(" whole ")"                                                 -> leaf       //@ p = 0.3\n     | ',
        "",
        1,
    ).replace("//@ p = 0.4", "", 1).replace("//@ p = 0.3", "", 1)
    file = "\n".join(line for line in file.split("\n") if not line.startswith("whole:"))
    with pytest.raises(ValueError, match=r"every alternative of start splits the layers, and the base has 1 of them"):
        grammar.loads(file).bind_layers(one)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("each(below) = SPLIT", "each(beside) = SPLIT", r"each\(beside\): below and above a split are known"),
        (
            "each(below) = SPLIT",
            "each(below) = PLACE",
            r"each\(below\) = PLACE: no such terminal; a space over layers is",
        ),
        ("each(below) = SPLIT", "each(below) = RANK", r"a file has one split; these rules name RANK and SPLIT"),
        ('SPLIT: "1"', 'SPLIT: "0"', r"SPLIT is a split: its values are numbers of layers from 1 on, not '0'"),
        ('"ensemble2" "(" SPLIT ":" trunk', '"ensemble2" "(" trunk', r"start: SPLIT stands once in the alternative"),
        ("trunk: layer+", 'trunk: "t" layer+', r"trunk: a space over layers is `start: layer\+"),
        ('"all-layers"', '"all-linear"', r"a space of sites begins with exactly `start: site\+"),
        ("-> ensemble3", "-> ensemble4", r"ensemble4 is a trunk and 4 members, not 4 parts"),
    ],
)
def test_files_that_split_otherwise_are_refused(old: str, new: str, message: str) -> None:
    assert old in FILE
    with pytest.raises(grammar.SpaceError, match=message):
        grammar.loads(FILE.replace(old, new))


def test_a_share_of_one_value_is_still_an_argument() -> None:
    file = FILE.replace('HEADS: "25%" | "50%" | "75%" | "100%"', 'HEADS: "100%"')
    space = grammar.loads(file).bind_layers(LAYERS)
    assert all("heads=100%" in d.text for d in space.sample(np.random.default_rng(0), 20) if "keep" in d.text)
