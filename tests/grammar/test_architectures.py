"""Architecture spaces through their interface: round trips, variation, budgets, fragments, inputs, depth."""

from __future__ import annotations

import copy
import math
import time
from functools import cache

import lark
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archrank import grammar, spaces
from archrank.grammar import Derivation, Space
from archrank.grammar.architecture import Architecture

SEEDS = st.integers(0, 2**32 - 1)


@cache
def einspace() -> Space:
    return spaces.load("einspace")


@cache
def known() -> dict[str, Derivation]:
    return {name: einspace().parse(text) for name, text in spaces.sentences("einspace").items()}


def samples(seed: int, n: int, space: Space | None = None) -> list[Derivation]:
    return (space or einspace()).sample(np.random.default_rng(seed), n)


def arch(text: str, space: Space | None = None) -> Architecture:
    space = space or einspace()
    return space.elaborate(space.parse(text))


def test_texts_parse_back() -> None:
    space = einspace()
    for d in samples(1, 2000):
        other = space.parse(d.text)
        assert (other, other.text, other.key, hash(other)) == (d, d.text, d.key, hash(d))
        assert space.log_prob(other) == space.log_prob(d) < 0
        assert space.parse(d.text.replace("),", ") ,\n ").replace("seq(", " seq ( ")) == d


def test_log_prob_is_that_of_the_file() -> None:
    text = "seq(norm,branch8(group(2),route(im2col(3,1,1),linear(64),col2im),concat(1)))"
    module = (0.32 / 13) * (0.68 / 9) * (3 / 4 / 3) * (0.68 / 3) * (7 / 14 / 7) * (0.32 * 8 / 13 / 8) * (1 / 8)
    assert einspace().log_prob(einspace().parse(text)) == pytest.approx(
        math.log(1 / 3 * module * (3 / 4 / 3)), abs=1e-9
    )


def words(tree: lark.Tree[lark.Token]) -> list[str]:
    """The aliases and values of stock Lark's tree in preorder."""
    found: list[str] = []
    stack: list[lark.Tree[lark.Token] | lark.Token] = [tree]
    while stack:
        item = stack.pop()
        if isinstance(item, lark.Token):
            found.append(str(item))
        else:
            found.append(str(item.data))
            stack.extend(reversed(item.children))
    return found


def test_stock_lark_parses_the_same_derivation() -> None:
    space = einspace()
    stock = lark.Lark(space.text, parser="lalr")
    productions = space._grammar.productions
    for d in [*samples(2, 250), *known().values()]:
        assert words(stock.parse(d.text)) == [productions[choice].label for choice in d.choices]


def check_child(space: Space, child: Derivation, parents: list[Derivation]) -> None:
    assert child.key not in {parent.key for parent in parents}
    assert child not in parents
    assert space.parse(child.text) == child
    assert space.meets(child)
    space.elaborate(child)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SEEDS)
def test_children_are_valid_and_new(seed: int) -> None:
    space, rng = einspace(), np.random.default_rng(seed)
    a, b = space.sample(rng, 2)
    check_child(space, space.mutate(a, rng), [a])
    check_child(space, space.crossover(a, b, rng), [a, b])
    check_child(space, space.crossover(a, a, rng), [a])


@pytest.mark.parametrize("name", ["resnet18", "wrn16_4", "mlp_mixer", "vit_d4"])
def test_known_networks_vary(name: str) -> None:
    space, rng = einspace(), np.random.default_rng(3)
    parent, other = known()[name], known()["wrn16_4" if name != "wrn16_4" else "resnet18"]
    children = [space.mutate(parent, rng) for _ in range(8)]
    for child in children:
        check_child(space, child, [parent])
    check_child(space, space.crossover(parent, other, rng), [parent, other])
    if space.meets(parent):
        assert len({child.key for child in children}) >= 6
        kept = [len(set(child.choices) & set(parent.choices)) for child in children]
        assert max(kept) > 5


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SEEDS, st.integers(0, 200_000), st.integers(0, 10**8), st.integers(12_288, 200_000), st.integers(5, 200))
def test_budgets_hold(seed: int, params: int, flops: int, elements: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    most = {"params": params, "flops": flops, "activation_bytes": 4 * elements, "size": size}
    space = einspace().within(
        params=(None, params), flops=(None, flops), activation_bytes=(None, 4 * elements), size=(None, size)
    )
    found = space.sample(rng, 6)
    found += [space.mutate(found[0], rng), space.crossover(found[1], found[2], rng)]
    assert space.bounds == most
    for d in found:
        built = space.elaborate(d)
        assert built.params <= params
        assert built.flops <= flops
        assert max((node.written for node in built.ops), default=0) <= elements
        assert space.trees().nodes(d.choices, [0] * len(d.choices)).sizes[0] <= size
        assert space.meets(d)


def test_copies_count_in_budgets() -> None:
    """Weights and FLOPs of a module that is built several times count as often."""
    for name, most in (("params", 20_000), ("flops", 3_000_000)):
        space, copied = einspace().within(**{name: (None, most)}), 0
        for d in samples(16, 900, space):
            built = space.elaborate(d)
            assert getattr(built, name) <= most
            copied += ("branch4" in d.text or "branch8" in d.text) and getattr(built, name) > most // 4
        assert copied > 5


def test_what_breaks_a_budget_does_not_meet_it() -> None:
    d = einspace().parse("seq(linear(64),linear(64))")
    built = einspace().elaborate(d)
    assert (built.params, built.activation_bytes) == (2 * 65 * 64, 4 * 3 * 64 * 64)
    assert built.flops == 2 * 2 * 3 * 64 * 64 * 64
    for name, cost in (("params", built.params), ("flops", built.flops), ("activation_bytes", built.activation_bytes)):
        assert einspace().within(**{name: (None, cost)}).meets(d)
        assert not einspace().within(**{name: (None, cost - 1)}).meets(d)
    copies = einspace().parse("branch8(clone,linear(64),add)")
    assert einspace().elaborate(copies).params == 8 * 65 * 64
    assert not einspace().within(params=(None, 8 * 65 * 64 - 1)).meets(copies)


def test_a_space_without_bounds_on_costs_samples() -> None:
    text = '//@ input = 16x8\n//@ max size = 12\nstart: m\nm: "seq" "(" m "," m ")" -> seq //@ p = 0.5\n'
    space = grammar.loads(text + ' | "lin" "(" W ")" -> linear\n | "id" -> id\nW: "4"\n')
    assert {space.elaborate(d).shape for d in samples(4, 50, space)} == {(16, 8), (16, 4)}


def test_one_architecture_in_many_sentences_has_nothing_to_vary() -> None:
    space = grammar.loads(
        '//@ input = 3x8x8\n//@ max size = 400\nstart: m\nm: "seq" "(" m "," m ")" -> seq //@ p = 0.4\n | "id" -> id\n'
    )
    [d] = samples(5, 1, space)
    began = time.process_time()
    with pytest.raises(ValueError, match="no other candidate was found among 2,000 sentences"):
        space.mutate(d, np.random.default_rng(0))
    assert time.process_time() - began < 10


def test_fragments() -> None:
    module = einspace().fragment("module")
    assert module.elaborate(module.parse("norm")).params == 6
    assert module.parse("norm").text == "norm"
    with pytest.raises(grammar.SpaceError, match="found 'norm' where network: "):
        einspace().parse("norm")
    for d in samples(6, 50, module):
        assert module.parse(d.text) == d
        assert module.meets(d)
    leaf = einspace().fragment("comp")
    assert {d.text.split("(")[0] for d in samples(7, 200, leaf)} == {
        "id", "linear", "norm", "leaky_relu", "softmax", "pos_enc"
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"fragment\('modul'\): no such rule; did you mean module\? rules: start, "):
        einspace().fragment("modul")
    with pytest.raises(ValueError, match=r"fragment\('split2'\): the rule gives a split, no architecture"):
        einspace().fragment("split2")
    with pytest.raises(ValueError, match=r"fragment\('AXIS'\): no such rule"):
        einspace().fragment("AXIS")
    with pytest.raises(ValueError, match=r"a space of sites has no fragments"):
        spaces.load("lora_ranks").fragment("site")


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (12, 8, 8), (1, 27, 18), (1, 64, 128), (96, 1), (1, 1, 1)])
def test_other_inputs(shape: tuple[int, ...]) -> None:
    space, rng = einspace().with_input(shape), np.random.default_rng(8)
    assert space.input == shape
    assert einspace().input == (3, 64, 64)
    for d in samples(9, 60, space):
        assert space.elaborate(d).input == shape
        assert space.elaborate(d) == einspace().elaborate(d, input=shape)
        check_child(space, space.mutate(d, rng), [d])


def test_wrong_inputs() -> None:
    for wrong in ((), (0, 3), (3, -1), (2.5, 2), (True, 2), (2**31, 1)):
        with pytest.raises(ValueError, match="an input shape is"):
            einspace().with_input(wrong)
        with pytest.raises(ValueError, match="an input shape is"):
            einspace().elaborate(samples(0, 1)[0], input=wrong)
    plain = grammar.loads('start: a\na: "x" -> x\n')
    for call in (lambda: plain.with_input((3, 4, 4)), lambda: plain.elaborate(plain.parse("x"))):
        with pytest.raises(ValueError, match=r"<text> has no architectures; add //@ input = 3x64x64 and aliases"):
            call()
    with pytest.raises(ValueError, match=r"lora_ranks has no architectures"):
        spaces.load("lora_ranks").with_input((3, 4, 4))


DEEP = {
    "seq to the left": ("seq(" * 4999 + "norm" + ",norm)" * 4999, 5000),
    "seq to the right": ("seq(norm," * 4999 + "norm" + ")" * 4999, 5000),
    "route": ("route(permute(321)," * 3000 + "norm" + ",permute(321))" * 3000, 6001),
    "branch": ("branch2(clone," * 2500 + "norm" + ",id,add)" * 2500, 2501),
    "branch in the second place": ("branch2(clone,norm," * 2500 + "norm" + ",add)" * 2500, 5001),
    "ids": ("seq(id," * 5000 + "id" + ")" * 5000, 0),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_sentences(name: str) -> None:
    text, ops = DEEP[name]
    space = einspace().with_input((3, 4, 4))
    a, b = space.parse(text), space.parse(text)
    assert a.text == text
    assert len(a.choices) >= 9000
    assert (a, hash(a), a.key) == (b, hash(b), b.key)
    assert copy.deepcopy(a) == a
    assert len(repr(a)) < 100
    assert -1e6 < space.log_prob(a) < 0
    built = space.elaborate(a)
    assert len(built.ops) == ops
    assert built.shape == (3, 4, 4)
    assert built.workload(2).flops == 0
    assert built.graph().number_of_nodes() == ops + 1
    assert hash(built) == hash(space.elaborate(b))
    assert not space.meets(a)
    child = space.mutate(a, np.random.default_rng(0))
    check_child(space, child, [a])


def test_deep_samples() -> None:
    """A chain of thousands is sampled, filled and varied."""
    space = grammar.loads(
        '//@ input = 8x8\n//@ max size = 4000\n//@ prior size = uniform\nstart: m\nm: "s" "(" l "," m ")" -> seq\n'
        ' | "n" -> norm\nl: "r" -> softmax\n | "p" "(" O ")" -> permute\nO: "21" | "12"\n'
    )
    rng = np.random.default_rng(0)
    drawn = max(samples(10, 20, space), key=lambda d: len(d.choices))
    assert len(drawn.choices) > 3000
    check_child(space, space.mutate(drawn, rng), [drawn])
    check_child(space, space.crossover(drawn, samples(11, 1, space)[0], rng), [drawn])


def test_the_graph_of_an_architecture() -> None:
    built = arch("branch2(clone,route(im2col(3,1,1),linear(16),col2im),seq(linear(64),route(id,norm,id)),concat(1))")
    graph = built.graph()
    assert [graph.nodes[i]["op"] for i in range(-1, 6)] == [
        "input", "im2col", "linear", "col2im", "linear", "norm", "concat"
    ]  # fmt: skip
    assert set(graph.edges) == {(-1, 0), (0, 1), (1, 2), (-1, 3), (3, 4), (2, 5), (4, 5)}
    assert graph.edges[4, 5]["slots"] == (1,)
    assert graph.nodes[5]["shape"] == (19, 64, 64) == built.shape
    assert arch("branch2(clone,id,id,add)").graph().edges[-1, 0]["slots"] == (0, 1)
    assert arch("seq(id,id)").shape == (3, 64, 64)
    assert arch("seq(id,id)").activation_bytes == 4 * 3 * 64 * 64


def test_live_elements() -> None:
    assert arch("seq(norm,norm)").live_elements == 2 * 3 * 64 * 64
    assert arch("branch2(clone,norm,id,add)").live_elements == 3 * 3 * 64 * 64
    assert arch("branch8(clone,norm,add)").live_elements == 9 * 3 * 64 * 64
    assert arch("seq(id,id)").live_elements == 3 * 64 * 64


def test_a_workload_of_an_architecture() -> None:
    built = arch("route(im2col(8,8,0),seq(linear(32),branch2(clone,id,route(id,id,permute(21)),matmul)),id)")
    work = built.workload(4)
    assert [(op.op, op.dims) for op in work.ops if op.op in ("linear", "bmm")] == [
        ("linear", (("m", 4 * 64), ("n", 32), ("k", 192))),
        ("bmm", (("b", 4), ("m", 64), ("n", 64), ("k", 32))),
    ]
    assert work.flops == 4 * built.flops
    assert work.weight_elements == built.params == 193 * 32
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="the batch is a whole number of at least 1"):
            built.workload(wrong)  # type: ignore[arg-type]


def test_cost() -> None:
    d = einspace().parse("seq(linear(64),norm)")
    cost = einspace().cost(d)
    assert (cost.params, cost.adapter_params, cost.flops, cost.bytes) == (
        64 * 65 + 6,
        0,
        2 * 3 * 64 * 64 * 64,
        4 * 4166,
    )


def test_the_same_seed_gives_the_same_networks() -> None:
    assert samples(12, 30) == samples(12, 30, spaces.load("einspace"))
    assert samples(12, 30) != samples(13, 30)


def test_every_vector_decodes_to_a_network_that_fits() -> None:
    space, rng = einspace().within(size=(None, 30)), np.random.default_rng(14)
    slots = space.encoding()
    for d in samples(15, 60, space):
        assert space.decode(space.encode(d)) == d
    for _ in range(60):
        assert space.meets(space.decode([int(rng.integers(len(slot.choices))) for slot in slots]))
