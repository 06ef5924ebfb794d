"""What sampling draws: structures exactly from the file's probabilities under the bound, ops exactly from the rule's
probabilities conditioned on fitting; checked by chi-square against distributions that are computed here.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from archrank import grammar, spaces

STRUCTURE = re.compile(r"(?:seq|branch[248]|route)\b|[a-z_0-9]+(?:\([\d,]+\))?")


def far(counts: Mapping[str, int], probabilities: Mapping[str, float]) -> float:
    """Chi-square as a z value (Wilson and Hilferty); cells expected below 10 are pooled, foreign ones with them."""
    n = sum(counts.values())
    cells = [[float(n), float(n)]]
    for cell, p in probabilities.items():
        if n * p >= 10:
            cells.append([counts.get(cell, 0), n * p])
            cells[0] = [cells[0][0] - cells[-1][0], cells[0][1] - cells[-1][1]]
    if cells[0][1] < 10:
        assert cells[0][0] < 40
        cells = cells[1:]
    k = len(cells) - 1
    chi = sum((seen - wanted) ** 2 / wanted for seen, wanted in cells)
    return ((chi / k) ** (1 / 3) - 1 + 2 / (9 * k)) / math.sqrt(2 / (9 * k))


# alternative: probability of it in `module`, in `network`, own size with split and join, copies of each module
EINSPACE = {
    "seq": (0.68 / 3, 1 / 3, 1, (1, 1)),
    "branch2": (0.68 / 9, 1 / 9, 3, (1, 1)),
    "branch4": (0.68 / 9, 1 / 9, 3, (4,)),
    "branch8": (0.68 / 9, 1 / 9, 3, (8,)),
    "route": (0.68 / 3, 1 / 3, 3, (1,)),
    "leaf": (0.32, 0.0, 2, ()),
}
FORMS = {"seq": "seq({},{})", "branch2": "branch2(.,{},{},.)", "branch4": "branch4(.,{},.)",
         "branch8": "branch8(.,{},.)", "route": "route(.,{},.)", "leaf": "."}  # fmt: skip


def weights(most: int) -> tuple[list[float], list[float]]:
    """Probability of each expanded size of a module and of a network."""
    module, network = [0.0] * (most + 1), [0.0] * (most + 1)
    for n in range(most + 1):
        for p_module, p_network, own, copies in EINSPACE.values():
            rest = n - own
            if rest < 0 or not copies:
                ways = float(rest == 0)
            elif len(copies) == 1:
                ways = module[rest // copies[0]] if rest % copies[0] == 0 else 0.0
            else:
                ways = sum(module[i] * module[rest - i] for i in range(rest + 1))
            module[n] += p_module * ways
            network[n] += p_network * ways
    return module, network


def structures(most: int, top: bool = True) -> Iterator[tuple[str, float, int]]:
    """Every structure of a network up to an expanded size, with its probability."""
    for name, (p_module, p_network, own, copies) in EINSPACE.items():
        p, rest = (p_network if top else p_module), most - own
        if rest < 0 or p == 0:
            continue
        if not copies:
            yield ".", p, own
        elif len(copies) == 1:
            for inner, q, size in structures(rest // copies[0], False):
                yield FORMS[name].format(inner), p * q, own + copies[0] * size
        else:
            for left, q, size in structures(rest, False):
                for right, r, other in structures(rest - size, False):
                    yield FORMS[name].format(left, right), p * q * r, own + size + other


def structure(text: str) -> str:
    """A sentence with every op as a dot."""
    return STRUCTURE.sub(lambda m: m[0] if m[0] in EINSPACE else ".", text)


def test_einspace_structures_are_drawn_exactly() -> None:
    space = spaces.load("einspace").within(size=(None, 40))
    _, network = weights(40)
    np.testing.assert_allclose(space.trees().size_probabilities(), np.array(network) / sum(network), rtol=1e-9)
    table = {text: p / sum(network) for text, p, _ in structures(14)}
    assert len(table) > 80
    drawn = Counter(structure(d.text) for d in space.sample(np.random.default_rng(21), 15_000))
    assert far(drawn, table) < 4
    sizes = Counter(
        str(space.trees().nodes(d.choices, [0] * len(d.choices)).sizes[0])
        for d in space.sample(np.random.default_rng(22), 4000)
    )
    assert far(sizes, {str(n): w / sum(network) for n, w in enumerate(network)}) < 4


def test_a_uniform_prior_gives_uniform_sizes() -> None:
    text = spaces.load("einspace").text.replace("//@ max size = 800,", "//@ prior size = uniform\n//@ max size = 800,")
    space = grammar.loads(text).within(size=(20, 60))
    sizes = Counter(
        space.trees().nodes(d.choices, [0] * len(d.choices)).sizes[0]
        for d in space.sample(np.random.default_rng(23), 4000)
    )
    _, network = weights(60)
    possible = [n for n in range(20, 61) if network[n] > 0]
    assert set(sizes) <= set(possible)
    assert far({str(n): c for n, c in sizes.items()}, {str(n): 1 / len(possible) for n in possible}) < 4


SMALL = """//@ input = 6x4
//@ max size = 7, max params = 60
start: m
m: "seq" "(" m "," m ")"            -> seq      //@ p = 0.3
 | "branch4" "(" s "," m "," j ")"  -> branch4  //@ p = 0.1, copies(m) = 4
 | "lin" "(" W ")"                  -> linear   //@ p = 0.3
 | "norm"                           -> norm     //@ p = 0.1
 | "id"                             -> id       //@ p = 0.05
 | "turn" "(" O ")"                 -> permute  //@ p = 0.15
s: "clone" -> clone                             //@ p = 0.2
 | "group" "(" A ")" -> group
j: "add" -> add                                 //@ p = 0.6
 | "concat" "(" A ")" -> concat
W: "4"                                          //@ p = 0.75
 | "8"
O: "21"
A: "1"                                          //@ p = 0.9
 | "2"
%ignore /\\s+/
"""
Shape = tuple[int, int]
Filled = tuple[str, float, Shape, int]


def leaves(shape: Shape, left: int, times: int) -> list[Filled]:
    """Words of `m` that fit, with their probability among those that do."""
    rows, width = shape
    found = [(f"lin({w})", 0.3 * p, (rows, w), left - times * (width + 1) * w) for w, p in ((4, 0.75), (8, 0.25))] + [
        ("norm", 0.1, shape, left - times * 2 * width),
        ("id", 0.05, shape, left),
        ("turn(21)", 0.15, (width, rows), left),
    ]
    found = [fit for fit in found if fit[3] >= 0]
    total = sum(p for _, p, _, _ in found)
    return [(word, p / total, out, rest) for word, p, out, rest in found]


def normed(options: list[tuple[str, float, Shape]]) -> list[tuple[str, float, Shape]]:
    total = sum(p for _, p, _ in options)
    return [(word, p / total, out) for word, p, out in options]


def filled(form: object, shape: Shape, left: int, times: int) -> Iterator[Filled]:
    """Every way to fill a structure: None a leaf, (a, b) a seq, [a] a branch4."""
    rows, width = shape
    if form is None:
        yield from leaves(shape, left, times)
    elif isinstance(form, tuple):
        for a, p, middle, rest in filled(form[0], shape, left, times):
            for b, q, out, end in filled(form[1], middle, rest, times):
                yield f"seq({a},{b})", p * q, out, end
    elif isinstance(form, list):
        cuts = [("clone", 0.2, shape), ("group(1)", 0.72, (rows // 4, width)), ("group(2)", 0.08, (rows, width // 4))]
        for cut, p, piece in normed([c for c in cuts if c[0] == "clone" or shape[int(c[0][6]) - 1] % 4 == 0]):
            for a, q, out, end in filled(form[0], piece, left, 4 * times):
                joins = [("add", 0.6, out), ("concat(1)", 0.36, (4 * out[0], out[1])),
                         ("concat(2)", 0.04, (out[0], 4 * out[1]))]  # fmt: skip
                for join, r, last in normed(joins):
                    yield f"branch4({cut},{a},{join})", p * q * r, last, end


def forms(size: int) -> Iterator[tuple[object, float]]:
    """Structures of exactly a size, with their probability."""
    if size == 1:
        yield None, 0.6
    for first in range(1, size - 1):
        for a, p in forms(first):
            for b, q in forms(size - 1 - first):
                yield (a, b), 0.3 * p * q
    if size >= 7 and (size - 3) % 4 == 0:
        for a, p in forms((size - 3) // 4):
            yield [a], 0.1 * p


def test_a_small_typed_space_is_drawn_exactly() -> None:
    space = grammar.loads(SMALL)
    exact: dict[str, float] = Counter()
    for size in range(1, 8):
        for form, p in forms(size):
            for text, q, _, left in filled(form, (6, 4), 60, 1):
                assert 0 <= left <= 60
                exact[text] += p * q
    total = sum(exact.values())
    every = {d.text for d in space.enumerate()}
    assert every == set(exact)
    assert space.size() >= len(every)
    drawn = Counter(d.text for d in space.sample(np.random.default_rng(24), 30_000))
    assert set(drawn) <= every
    assert far(drawn, {text: p / total for text, p in exact.items()}) < 4


@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 32, 32), (1, 27, 18), (64, 16)])
def test_few_branches_are_closed_by_fallback(shape: tuple[int, ...]) -> None:
    space = spaces.load("einspace").with_input(shape)
    space.sample(np.random.default_rng(25), 1500)
    counts = space.trees().counts  # type: ignore[attr-defined]
    assert set(counts) <= {"free", "goal", "fallback"}
    assert counts["fallback"] <= 0.10 * sum(counts.values()), dict(counts)
