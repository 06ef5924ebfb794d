"""Which architecture a child is most like, and which of their ops belong together."""

from __future__ import annotations

import pytest

from archrank import grammar, spaces
from archrank.supernet.relatives import Relatives, pairs


@pytest.fixture(scope="module")
def space() -> grammar.Space:
    return spaces.load("einspace").with_input((3, 8, 8))


def of(space: grammar.Space, text: str) -> grammar.Architecture:
    return space.elaborate(space.parse(text))


@pytest.mark.parametrize(
    ("parent", "child", "expected"),
    [
        ("seq(norm,linear(16))", "seq(norm,linear(16))", [(0, 0), (1, 1)]),
        ("seq(norm,linear(16))", "seq(norm,seq(softmax,linear(16)))", [(0, 0), (1, 2)]),
        ("seq(norm,seq(softmax,linear(16)))", "seq(norm,linear(16))", [(0, 0), (2, 1)]),
        ("seq(norm,linear(16))", "seq(softmax,linear(32))", []),
        ("seq(norm,norm)", "seq(norm,seq(norm,norm))", [(0, 0), (1, 1)]),
    ],
)
def test_ops_are_paired_from_both_ends(
    space: grammar.Space, parent: str, child: str, expected: list[tuple[int, int]]
) -> None:
    assert sorted(pairs(of(space, parent), of(space, child))) == expected


def test_the_nearest_shares_most_weights_and_among_equals_is_the_latest(space: grammar.Space) -> None:
    seen = Relatives(kept=3)
    child = of(space, "seq(norm,seq(linear(64),seq(softmax,linear(16))))")
    assert seen.nearest(child) is None
    other, near = of(space, "seq(softmax,linear(32))"), of(space, "seq(norm,seq(linear(64),linear(16)))")
    seen.add(other)
    assert seen.nearest(child) is None
    seen.add(near)
    seen.add(of(space, "seq(norm,leaky_relu)"))
    assert seen.nearest(child) is near
    again = of(space, "seq(norm,seq(linear(64),linear(16)))")
    seen.add(again)
    assert seen.nearest(child) is again
    for _ in range(3):
        seen.add(other)
    assert seen.nearest(child) is None
