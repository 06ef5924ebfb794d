"""General grammars against brute force: counts, probabilities, samples, variation, encoding, long
sentences.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter

import lark
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archrank import grammar

FINITE = """start: net
net: "pair" "(" op "," op ")" -> pair        //@ p = 0.5
   | "rep" "(" op ")" -> rep                 //@ p = 1/8, copies(op) = 3
   | op -> one
op: "lin" "(" W ")" -> lin                   //@ p = 0.7
  | "id" -> id
W: "16"                                      //@ p = 0.2
 | "32"
 | "64"
%ignore /\\s+/
"""
RECURSIVE = """//@ max size = 7
start: m
m: "seq" "(" m "," m ")" -> seq   //@ p = 0.8
 | "rep" "(" m ")" -> rep         //@ p = 0.1, copies(m) = 2
 | "lin" "(" W ")" -> lin
 | "id" -> id
W: "1" | "2"
%ignore /\\s+/
"""


def brute_finite() -> dict[str, tuple[float, int]]:
    ops = {"id": (0.3, 1), **{f"lin({w})": (0.7 * p, 1) for w, p in (("16", 0.2), ("32", 0.4), ("64", 0.4))}}
    table = {
        f"pair({a},{b})": (0.5 * p * q, 3) for (a, (p, _)), (b, (q, _)) in itertools.product(ops.items(), repeat=2)
    }
    table |= {f"rep({a})": (p / 8, 4) for a, (p, _) in ops.items()}
    return table | {a: (p * 3 / 8, 2) for a, (p, _) in ops.items()}


def brute_recursive(limit: int) -> dict[str, tuple[float, int]]:
    by_size: dict[int, dict[str, float]] = {1: {"id": 0.05, "lin(1)": 0.025, "lin(2)": 0.025}}
    for n in range(2, limit + 1):
        now: dict[str, float] = {}
        for i in range(1, n - 1):
            for (a, p), (b, q) in itertools.product(by_size[i].items(), by_size[n - 1 - i].items()):
                now[f"seq({a},{b})"] = 0.8 * p * q
        if (n - 1) % 2 == 0:
            now |= {f"rep({a})": 0.1 * p for a, p in by_size[(n - 1) // 2].items()}
        by_size[n] = now
    return {text: (p, n) for n, of_size in by_size.items() for text, p in of_size.items()}


CASES = {"finite": (FINITE, brute_finite()), "recursive": (RECURSIVE, brute_recursive(7))}


def chi_square_is_plausible(counts: Counter[str], expected: dict[str, float], n: int) -> bool:
    """Wilson and Hilferty's z of the chi-square below 4; cells below 10 expected are pooled."""
    cells: list[tuple[float, float]] = []
    pooled = [0.0, 0.0]
    for text, p in expected.items():
        if n * p < 10:
            pooled = [pooled[0] + counts[text], pooled[1] + n * p]
        else:
            cells.append((counts[text], n * p))
    if pooled[1] > 0:
        cells.append((pooled[0], pooled[1]))
    k = len(cells) - 1
    value = sum((seen - wanted) ** 2 / wanted for seen, wanted in cells)
    z = ((value / k) ** (1 / 3) - 1 + 2 / (9 * k)) / math.sqrt(2 / (9 * k))
    return z < 4 and set(counts) <= set(expected)


@pytest.mark.parametrize("case", CASES)
def test_enumeration_count_and_probabilities_equal_brute_force(case: str) -> None:
    text, table = CASES[case]
    space, stock = grammar.loads(text), lark.Lark(text, parser="lalr")
    every = list(space.enumerate())
    assert sorted(d.text for d in every) == sorted(table)
    assert space.size() == len(table) == len({d.key for d in every})
    for d in every:
        stock.parse(d.text)
        assert space.parse(d.text) == d
        assert space.log_prob(d) == pytest.approx(math.log(table[d.text][0]), abs=1e-9)
    total = math.fsum(math.exp(space.log_prob(d)) for d in every)
    assert abs(total - math.fsum(p for p, _ in table.values())) < 1e-12


@pytest.mark.parametrize("case", CASES)
def test_samples_follow_the_probabilities_under_the_bound(case: str) -> None:
    text, table = CASES[case]
    draws = Counter(d.text for d in grammar.loads(text).sample(np.random.default_rng(0), 20_000))
    mass = sum(p for p, _ in table.values())
    assert chi_square_is_plausible(draws, {t: p / mass for t, (p, _) in table.items()}, 20_000)


@pytest.mark.parametrize("case", CASES)
def test_within_keeps_both_ends(case: str) -> None:
    text, table = CASES[case]
    space = grammar.loads(text).within(size=(3, 5))
    inside = {t: p for t, (p, n) in table.items() if 3 <= n <= 5}
    assert space.size() == len(inside)
    assert {d.text for d in space.enumerate()} == set(inside)
    draws = space.sample(np.random.default_rng(1), 8000)
    mass = sum(inside.values())
    assert chi_square_is_plausible(Counter(d.text for d in draws), {t: p / mass for t, p in inside.items()}, 8000)
    rng = np.random.default_rng(2)
    for a, b in itertools.pairwise(draws[:200]):
        assert space.mutate(a, rng).text in inside
        assert space.crossover(a, b, rng).text in inside


def test_uniform_sizes() -> None:
    space = grammar.loads("//@ prior size = uniform\n" + RECURSIVE)
    sizes = {t: n for t, (_, n) in brute_recursive(7).items()}
    counts = Counter(str(sizes[d.text]) for d in space.sample(np.random.default_rng(3), 6000))
    feasible = {str(n) for n in sizes.values()}
    assert chi_square_is_plausible(counts, {n: 1 / len(feasible) for n in feasible}, 6000)


def test_depth_bound() -> None:
    space = grammar.loads(RECURSIVE).within(depth=(None, 2))
    leaves = ["id", "lin(1)", "lin(2)"]
    wanted = {*leaves, *(f"seq({a},{b})" for a in leaves for b in leaves), *(f"rep({a})" for a in leaves)}
    assert {d.text for d in space.enumerate()} == wanted
    assert space.size() == len(wanted)
    draws = space.sample(np.random.default_rng(0), 500)
    assert {d.text for d in draws} <= wanted
    assert not space.meets(space.parse("seq(id,seq(id,id))"))
    rng = np.random.default_rng(1)
    for a, b in itertools.pairwise(draws):
        assert space.mutate(a, rng).text in wanted
        assert space.crossover(a, b, rng).text in wanted


@given(seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_children_are_valid_and_new(seed: int) -> None:
    space = SPACE
    rng = np.random.default_rng(seed)
    a, b = space.sample(rng, 2)
    child = space.mutate(a, rng)
    assert child.key != a.key
    assert space.meets(child)
    assert space.parse(child.text) == child
    mixed = space.crossover(a, b, rng)
    assert mixed.key not in (a.key, b.key)
    assert space.meets(mixed)
    assert space.parse(mixed.text) == mixed


@given(seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_encoding_round_trip_and_every_vector_is_valid(seed: int) -> None:
    rng = np.random.default_rng(seed)
    slots = SPACE.encoding()
    d = SPACE.sample(rng)[0]
    assert SPACE.decode(SPACE.encode(d)) == d
    values = [int(rng.integers(len(slot.choices))) for slot in slots]
    assert SPACE.meets(SPACE.decode(values))
    assert SPACE.decode(values) == SPACE.decode(values)


SPACE = grammar.loads(RECURSIVE.replace("size = 7", "size = 25"))


def test_encoding_of_a_finite_space_reaches_everything() -> None:
    space = grammar.loads(FINITE)
    slots = space.encoding()
    assert [slot.name for slot in slots] == ["net.0", "op.0", "op.1", "W.0", "W.1"]
    vectors = itertools.product(*(range(len(slot.choices)) for slot in slots))
    assert {space.decode(list(v)).text for v in vectors} == set(brute_finite())
    with pytest.raises(ValueError, match="2 values for 5 slots"):
        space.decode([0, 0])
    with pytest.raises(ValueError, match=r"slot net\.0: value 9 is outside 0\.\.2"):
        space.decode([9, 0, 0, 0, 0])
    with pytest.raises(ValueError, match="an encoding needs a bound"):
        grammar.loads('start: m\nm: "(" m ")" -> a\n | "x" -> x\n').encoding()


def test_exact_counts_and_far_sizes_do_not_underflow() -> None:
    chain = '//@ max size = 900\n//@ prior size = uniform\nstart: m\nm: "(" m ")" -> a //@ p = 0.001\n | "x" -> x\n'
    space = grammar.loads(chain)
    assert space.size() == 900
    lengths = [d.text.count("(") for d in space.sample(np.random.default_rng(0), 400)]
    assert 350 < np.mean(lengths) < 550
    assert max(lengths) > 850
    catalan = grammar.loads('//@ max size = 201\nstart: m\nm: "s" "(" m m ")" -> s\n | "x" -> x\n')
    assert catalan.size() == sum(math.comb(2 * n, n) // (n + 1) for n in range(101))


def test_spaces_of_one_and_two_sentences() -> None:
    rng = np.random.default_rng(0)
    one = grammar.loads('start: a\na: "x" -> x\n')
    d = one.sample(rng)[0]
    with pytest.raises(ValueError, match="no sentence other than the parent"):
        one.mutate(d, rng)
    with pytest.raises(ValueError, match="no sentence other than the parent"):
        one.crossover(d, d, rng)
    two = grammar.loads('start: a\na: "x" -> x\n | "y" -> y\n')
    x, y = two.parse("x"), two.parse("y")
    assert two.mutate(x, rng) == y
    assert two.crossover(x, x, rng) == y
    with pytest.raises(ValueError, match="no sentence other than the parents"):
        two.crossover(x, y, rng)


def test_far_apart_sentences_under_a_tight_bound_still_mutate() -> None:
    text = 'start: a\na: "x" "(" b "," b ")" -> x\nb: "l" "(" c ")" -> l //@ copies(c) = 1\n | "s" -> s\nc: "c" -> c\n'
    space = grammar.loads(text).within(size=(4, 4))
    a, b = space.enumerate()
    assert {a.text, b.text} == {"x(l(c),s)", "x(s,l(c))"}
    assert space.mutate(a, np.random.default_rng(0)) == b


def test_zero_probability_is_outside_the_space_and_parses() -> None:
    space = grammar.loads('start: a\na: "x" -> x //@ p = 0\n | "y" -> y\n | "z" -> z\n')
    assert space.size() == 2
    assert {d.text for d in space.sample(np.random.default_rng(0), 50)} == {"y", "z"}
    assert space.log_prob(space.parse("x")) == -math.inf


def test_sentences_that_do_not_fit() -> None:
    space = grammar.loads(FINITE)
    wrong = {
        "pair(id,zzz)": (9, 'found \'zzz\' where op: "lin", "id" is expected'),
        "pair(id": (8, 'found the end where "," is expected'),
        "lin(48)": (5, 'found \'48\' where one of W: "16", "32", "64" is expected'),
        "lin(160)": (5, "found '160' where one of W"),
        "ln(16)": (1, "did you mean lin?"),
        "id id": (4, "found 'id' where the end of the sentence is expected"),
        "": (1, "found the end where net"),
    }
    for text, (column, message) in wrong.items():
        with pytest.raises(grammar.SpaceError) as caught:
            space.parse(text)
        assert (caught.value.line, caught.value.column) == (1, column), text
        assert message in caught.value.message, caught.value.message
    with pytest.raises(TypeError, match="a sentence is a text, not int"):
        space.parse(3)  # type: ignore[arg-type]


def test_white_space_and_words_side_by_side() -> None:
    space = grammar.loads('start: a\na: "in" b "out" -> a\nb: "x" -> x\n | "<" "=" -> y\n%ignore /\\s+/\n')
    assert [d.text for d in space.enumerate()] == ["in x out", "in< =out"]
    assert space.parse("  in\n x\tout ") == space.parse("in x out")
    assert all(space.parse(d.text) == d for d in space.enumerate())


def test_sentences_nest_deep() -> None:
    space = grammar.loads('start: m\nm: "seq" "(" m "," m ")" -> seq //@ p = 0.4\n | "id" -> id\n%ignore /\\s+/\n')
    n, rng = 5000, np.random.default_rng(0)
    for text in ("seq(" * n + "id" + ",id)" * n, "seq(id," * n + "id" + ")" * n):
        a, b = space.parse(text), space.parse(text)
        assert a.text == text
        assert a == b
        assert hash(a) == hash(b)
        assert a.key == b.key
        assert copy.deepcopy(a) == a
        assert len(repr(a)) < 100
        assert -1e6 < space.log_prob(a) < 0
        for child in (space.mutate(a, rng), space.crossover(a, b, rng)):
            assert child != a
            assert space.parse(child.text) == child


def test_misuse_is_refused() -> None:
    space, rng = grammar.loads(FINITE), np.random.default_rng(0)
    d = space.parse("id")
    with pytest.raises(ValueError, match="adapts no base: only a file with"):
        space.bind({"a": (2, 2)})
    with pytest.raises(ValueError, match="have no cost"):
        space.cost(d)
    with pytest.raises(ValueError, match="adapters: <text> adapts no base"):
        space.adapters(d)
    with pytest.raises(ValueError, match=r"within\(flops=…\)"):
        space.within(flops=(None, 3))
    with pytest.raises(ValueError, match="low is at most high"):
        space.within(size=(5, 3))
    with pytest.raises(
        grammar.EmptySpaceError,
        match=r"no sentence meets size in \[9, 10\]; the smallest "
        r"sentence",
    ):
        space.within(size=(9, 10))
    with pytest.raises(TypeError, match=r"a Derivation is needed, not str; space\.parse"):
        space.mutate("id", rng)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n is not negative"):
        space.sample(rng, -1)
    endless = grammar.loads('start: m\nm: "(" m ")" -> a //@ p = 0.1\n | "x" -> x\n')
    assert not endless.is_finite
    with pytest.raises(ValueError, match="recursive and has no bound on its size"):
        endless.size()
    with pytest.raises(ValueError, match="recursive and has no bound on its size"):
        next(endless.enumerate())
    explosive = grammar.loads('start: m\nm: "(" m m m ")" -> a //@ p = 0.999\n | "x" -> x\n')
    with pytest.raises(ValueError, match="a sample grew beyond 1,000,000 nodes"):
        explosive.sample(rng)


def test_the_same_seed_gives_the_same_sentences() -> None:
    space = grammar.loads(RECURSIVE)
    a, b = (space.sample(np.random.default_rng(5), 30) for _ in range(2))
    assert a == b
    assert a != space.sample(np.random.default_rng(6), 30)
