"""Spaces of sites: binding, text, costs, budgets, variation."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter

import lark
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archrank import grammar
from archrank.grammar import ops
from archrank.grammar.budget import BudgetTable, Ranges, count

FILE = grammar.load("lora_ranks")
SHAPES = {"a.q": (8, 8), "a.v": (4, 8), "b.up": (32, 8), "b.down": (8, 32)}
RANKS = [0, 1, 2, 4, 8]


def small() -> grammar.Space:
    return FILE.bind(SHAPES)


def brute() -> dict[tuple[int, ...], tuple[float, int]]:
    """Every assignment with its probability and parameters."""
    table = {}
    for ranks in itertools.product(RANKS, repeat=4):
        if all(r <= min(shape) for r, shape in zip(ranks, SHAPES.values(), strict=True)):
            p = math.prod(0.2 if r == 0 else 0.8 / 5 for r in ranks)
            table[ranks] = (p, sum(r * sum(shape) for r, shape in zip(ranks, SHAPES.values(), strict=True)))
    return table


def ranks_of(space: grammar.Space, d: grammar.Derivation) -> tuple[int, ...]:
    found = space.adapters(d)
    return tuple(found[name].rank if name in found else 0 for name in SHAPES)


def test_text_key_and_parsing() -> None:
    space = small()
    d = space.from_ranks({"a.q": 8, "b.down": 2})
    assert d.text == "a.q:lora(8) a.v:none b.up:none b.down:lora(2)"
    for same in (
        "a.q:lora(8) b.down:lora(2)",
        "b.down : lora ( 2 )\n a.q:lora(8)",
        " a.v:none a.q:lora(8) b.down:lora(2) ",
    ):
        assert space.parse(same) == d
        assert space.parse(same).key == d.key
    assert space.parse("a.q:lora(8) b.down:lora(1)").key != d.key
    assert space.adapters(d) == {"a.q": grammar.Adapter("lora", 8), "b.down": grammar.Adapter("lora", 2)}
    assert space.adapters(space.parse("")) == {}
    assert len(d.key) == 32
    assert int(d.key, 16) >= 0


def test_costs_are_in_closed_form() -> None:
    space = small()
    d = space.from_ranks({"a.q": 8, "b.down": 2})
    params = 8 * 16 + 2 * 40
    assert space.cost(d) == grammar.Cost(params, params, 2 * params, 4 * params)
    assert {"lora", "none"} <= set(ops.available())
    assert ops.load("lora").flops(32, 8, 4) == 2 * 4 * 40
    with pytest.raises(ValueError, match="no op 'lorra'; did you mean lora"):
        ops.load("lorra")


def test_count_enumeration_and_probabilities_equal_brute_force() -> None:
    space, table = small(), brute()
    every = list(space.enumerate())
    assert space.size() == len(every) == len({d.key for d in every}) == len(table)
    assert {ranks_of(space, d) for d in every} == set(table)
    stock = lark.Lark(space.text, parser="lalr")
    for d in every[:: len(every) // 40]:
        stock.parse(d.text)
        assert space.parse(d.text) == d
        assert space.cost(d).params == table[ranks_of(space, d)][1]
        assert space.log_prob(d) == pytest.approx(math.log(table[ranks_of(space, d)][0]))


@pytest.mark.parametrize(("low", "high"), [(0, 100), (150, 260), (333, 400), (0, 0)])
def test_budget_is_exact(low: int, high: int) -> None:
    space = small().within(adapter_params=(low, high))
    inside = {r: p for r, (p, cost) in brute().items() if low <= cost <= high}
    assert space.size() == len(inside)
    assert {ranks_of(space, d) for d in space.enumerate()} == set(inside)
    n = 12_000
    counts = Counter(ranks_of(space, d) for d in space.sample(np.random.default_rng(7), n))
    assert set(counts) <= set(inside)
    mass = sum(inside.values())
    cells = [(counts[r], n * p / mass) for r, p in inside.items() if n * p / mass >= 10]
    if len(cells) > 1:
        chi = sum((seen - wanted) ** 2 / wanted for seen, wanted in cells)
        assert chi < len(cells) + 4.5 * math.sqrt(2 * len(cells))


@given(seed=st.integers(0, 10_000), low=st.integers(0, 500), width=st.integers(0, 80))
@settings(max_examples=80, deadline=None)
def test_children_keep_the_budget(seed: int, low: int, width: int) -> None:
    base = small()
    try:
        space = base.within(adapter_params=(low, low + width))
    except grammar.EmptySpaceError:
        assert not any(low <= cost <= low + width for _, cost in brute().values())
        return
    rng = np.random.default_rng(seed)
    a, b = space.sample(rng, 2)
    outside = base.from_ranks({"b.up": 8, "b.down": 8, "a.q": 8})
    values = [int(rng.integers(len(slot.choices))) for slot in space.encoding()]
    assert space.meets(space.decode(values))
    assert space.decode(values) == space.decode(values)
    assert space.decode(space.encode(a)) == a
    if space.size() < 3:
        return
    for first, second in ((a, b), (a, a), (a, outside)):
        child = space.crossover(first, second, rng)
        assert child.key not in (first.key, second.key)
        assert space.meets(child)
    for parent in (a, outside):
        child = space.mutate(parent, rng)
        assert child.key != parent.key
        assert space.meets(child)
        assert space.parse(child.text) == child


def test_flops_bound_and_params_are_one_budget() -> None:
    space = small()
    a = space.within(flops=(100, 600))
    b = space.within(adapter_params=(50, 300))
    assert a.size() == b.size()
    assert space.within(params=(50, 300), flops=(None, 400)).size() == space.within(adapter_params=(50, 200)).size()
    assert b.bounds == {"adapter_params": 300}
    assert b.floors == {"adapter_params": 50}


def test_costs_that_are_not_proportional_take_a_table_of_two_dimensions() -> None:
    rng = np.random.default_rng(0)
    costs = [rng.integers(0, 7, (4, 2)) for _ in range(5)]
    ranges = Ranges(costs, [4, 2], [14, 15])
    wanted = set()
    for pick in itertools.product(range(4), repeat=5):
        total = sum(c[o] for c, o in zip(costs, pick, strict=True))
        if (total >= [4, 2]).all() and (total <= [14, 15]).all():
            wanted.add(pick)
    assert count(ranges, [4] * 5) == len(wanted)
    draws = {tuple(row) for row in BudgetTable(ranges, [np.ones(4)] * 5).sample(rng, 5000).tolist()}
    assert draws <= wanted
    assert len(draws) > 0.9 * len(wanted)


def test_a_coarse_table_never_breaks_the_range() -> None:
    rng = np.random.default_rng(1)
    costs = [rng.integers(0, 1000, (5, 1)) for _ in range(30)]
    table = BudgetTable(Ranges(costs, [9000], [10_000]), [np.ones(5)] * 30, most_cells=20_000)
    rows = table.sample(rng, 500)
    totals = sum(c[rows[:, i], 0] for i, c in enumerate(costs))
    assert (totals >= 9000).all()
    assert (totals <= 10_000).all()


def test_hundreds_of_modules_are_fast() -> None:
    shapes = {f"layers.{i}.{n}": s for i in range(32) for n, s in LLAMA_8B.items()}
    space, rng = FILE.bind(shapes), np.random.default_rng(0)
    start = time.perf_counter()
    tight = space.within(adapter_params=(1_500_000, 2_000_000))
    assert time.perf_counter() - start < 2
    start = time.perf_counter()
    draws = tight.sample(rng, 400)
    assert time.perf_counter() - start < 2
    assert all(1_500_000 <= tight.cost(d).params <= 2_000_000 for d in draws)
    assert all(tight.meets(tight.crossover(a, b, rng)) for a, b in itertools.pairwise(draws[:40]))
    assert tight.size() > 10**100


LLAMA_8B = {"q": (4096, 4096), "k": (1024, 4096), "v": (1024, 4096), "o": (4096, 4096), "gate": (14336, 4096),
            "up": (14336, 4096), "down": (4096, 14336)}  # fmt: skip


def test_ranks_above_the_limit_are_left_out_with_a_remark() -> None:
    space = small()
    said = {(lint.line, lint.code): lint.message for lint in space.lints}
    assert set(said) == {(9, "rank-above-limit")}
    assert next(lint.message for lint in space.lints) == (
        "rank 8 is above min(in, out) = 4 of a.v, and is left out there"
    )
    with pytest.raises(grammar.SpaceError) as caught:
        space.parse("a.q:lora(8) a.v:lora(8)")
    assert ("rank 8 is above the module's limit min(in, out) = 4 of a.v; allowed here: 1, 2, 4") in str(caught.value)
    assert (caught.value.line, caught.value.column) == (1, 22)
    with pytest.raises(
        ValueError,
        match=r"rank 8 is not allowed for module a\.v \(it is above the "
        r"module's limit min\(in, out\) = 4\); allowed: 1, 2, 4, or "
        r"0",
    ):
        space.from_ranks({"a.v": 8})
    wide = grammar.loads(space.text.replace('RANK: "1" | "2" | "4" | "8" | "16"', 'RANK: "32" | "64"'), "wide.lark")
    with pytest.raises(
        grammar.SpaceError,
        match=r"wide\.lark:9:1: no rank of lora \(32, 64\) fits a bound "
        r"module: the widest limit min\(in, out\) is 8, of a\.q; "
        r"add smaller",
    ):
        wide.bind(SHAPES)


def test_largest_rank_asked_for() -> None:
    space = FILE.bind(SHAPES, max_rank=2)
    assert {a.rank for d in space.enumerate() for a in space.adapters(d).values()} == {1, 2}
    with pytest.raises(
        grammar.SpaceError,
        match=r"rank 4 of a\.q is above the largest rank asked for; "
        r"allowed here: 1, 2",
    ):
        space.parse("a.q:lora(4)")


WRONG = {
    "a.x:none": (1, "no module 'a.x' is bound; did you mean a."),
    "a.q:lora(8) a.q:none": (13, "module a.q stands there twice"),
    "a.q:lora(7)": (10, 'found \'7\' where one of RANK: "1", "2", "4"'),
    "a.q:lora(": (10, "found the end where one of RANK"),
    "a.q:dora(8)": (5, 'found \'dora\' where adapter: "none", "lora" is expected; did you mean lora?'),
    "a.q lora(8)": (5, "found 'lora' where \":\" is expected"),
    "a.q:lora(8)) ": (12, "found ')' where a MODULE is expected"),
}


@pytest.mark.parametrize("text", WRONG)
def test_sentences_that_do_not_fit(text: str) -> None:
    column, message = WRONG[text]
    with pytest.raises(grammar.SpaceError) as caught:
        small().parse(text)
    assert message in caught.value.message
    assert (caught.value.line, caught.value.column) == (1, column)


def test_binding_is_asked_for_and_checked() -> None:
    rng = np.random.default_rng(0)
    assert FILE.needs_binding
    assert FILE.is_site_space
    assert FILE.target_modules == "all-linear"
    for call in (
        FILE.size,
        FILE.enumerate,
        FILE.encoding,
        lambda: FILE.sample(rng),
        lambda: FILE.parse("a:none"),
    ):
        with pytest.raises(
            ValueError,
            match=r"lora_ranks adapts a base and is not bound to one: call "
            r"space\.bind",
        ):
            call()
    bad: list[tuple[dict[str, tuple[int, int]], str]] = [
        ({}, "bind needs at least one module"),
        ({"0.q": (8, 8)}, "module name '0.q' is not a MODULE"),
        ({"q": (0, 8)}, "two whole numbers above 0"),
        ({"q": (8, 8, 8)}, "two whole numbers above 0"),  # type: ignore[dict-item]
    ]
    for shapes, message in bad:
        with pytest.raises(ValueError, match=message):
            FILE.bind(shapes)
    with pytest.raises(
        grammar.EmptySpaceError,
        match=r"no sentence meets adapter_params in \[10,000, "
        r"20,000\]; adapter_params of this base lie between "
        r"0 and 816",
    ):
        small().within(adapter_params=(10_000, 20_000))
    with pytest.raises(ValueError, match=r"no module 'a\.w' is bound; did you mean a\.q or a\.v"):
        small().from_ranks({"a.w": 2})
    with pytest.raises(ValueError, match="is not a sentence of lora_ranks"):
        small().log_prob(FILE.bind({"a": (8, 8)}).parse("a:none"))


def test_a_bound_of_the_file_that_the_base_cannot_meet() -> None:
    text = FILE.text.replace('"none"                    -> none            //@ p = 0.2\n       | ', "")
    text = text.replace("64M", "10")
    with pytest.raises(grammar.EmptySpaceError, match="no sentence meets the file's bounds"):
        grammar.loads(text).bind(SHAPES)


def test_without_none_every_module_is_named() -> None:
    text = FILE.text.replace('"none"                    -> none            //@ p = 0.2\n       | ', "")
    space = grammar.loads(text).bind(SHAPES)
    assert all(len(space.adapters(d)) == 4 for d in space.sample(np.random.default_rng(0), 20))
    with pytest.raises(
        grammar.SpaceError,
        match=r"no option is given for a\.v, b\.up, b\.down, and the "
        r"space has no `none`",
    ):
        space.parse("a.q:lora(1)")
    with pytest.raises(ValueError, match="and the space has no `none`: give one of 1, 2, 4, 8"):
        space.from_ranks({})


def test_encoding_is_one_slot_per_module() -> None:
    slots = small().encoding()
    assert [slot.name for slot in slots] == list(SHAPES)
    assert slots[1].choices == ("none", "lora(1)", "lora(2)", "lora(4)")
    assert small().decode([0, 3, 1, 0]).text == "a.q:none a.v:lora(4) b.up:lora(1) b.down:none"


def test_one_module_alone() -> None:
    space = FILE.bind({"w": (2, 2)})
    rng = np.random.default_rng(0)
    a, b = space.parse("w:none"), space.parse("w:lora(1)")
    assert space.crossover(a, b, rng).text == "w:lora(2)"
    single = space.within(adapter_params=(4, 4))
    with pytest.raises(ValueError, match="no sentence other than the parent"):
        single.mutate(b, rng)


ONE_RANK = (
    '//@ target_modules = "all-linear"\nstart: site+  //@ each = target_modules\nsite: MODULE ":" adapter\n'
    'adapter: "none" -> none | "lora" "(" RANK {more}")" -> lora\nRANK: {rank}\nALPHA: "16"\n'
    "MODULE: /[A-Za-z_][\\w.]*/  //@ bound\n%ignore /\\s+/\n"
)


def test_a_rank_of_one_value_reaches_its_adapter_and_a_constant_beside_a_choice_does_not() -> None:
    one = grammar.loads(ONE_RANK.format(more="", rank='"4"')).bind(SHAPES)
    assert one.ranks == (4,)
    d = one.from_ranks({"a.q": 4})
    assert d.text == "a.q:lora(4) a.v:none b.up:none b.down:none"
    assert one.parse(d.text) == d
    assert one.cost(d).adapter_params == 4 * 16
    assert one.size() == 2**4
    two = grammar.loads(ONE_RANK.format(more='"," ALPHA ', rank='"4" | "8"')).bind(SHAPES)
    assert two.ranks == (4, 8)
    assert two.from_ranks({"a.q": 8}).text.startswith("a.q:lora(8,16) ")
    with pytest.raises(grammar.SpaceError, match="lora takes 1 numbers from terminals, this alternative gives 0"):
        grammar.loads(ONE_RANK.format(more='"," ALPHA ', rank='"4"'))
