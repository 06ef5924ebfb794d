"""Spaces unrolled into rows, literal spaces, and probabilities written back as a file."""

from __future__ import annotations

import numpy as np
import pytest

from archrank import grammar, spaces

SITES = {f"m{i}": (64, 64) for i in range(6)}


def bound(low=None, high=None):
    space = spaces.load("lora_ranks").bind(SITES)
    return space if high is None else space.within(adapter_params=(low, high))


SPACES = {
    "nasbench201": lambda: spaces.load("nasbench201"),
    "gpt2_elastic": lambda: spaces.load("gpt2_elastic"),
    "mobilenetv3": lambda: spaces.load("mobilenetv3"),
    "sites": bound,
    "a stratum": lambda: bound(1500, 4000),
    "flat": lambda: grammar.loads('start: a b\na: "x" -> x | "y" b -> y\nb: "1" -> one | "2" -> two\n'),
}


@pytest.mark.parametrize("name", SPACES)
def test_rows_are_candidates(name):
    space, rng = SPACES[name](), np.random.default_rng(0)
    paths = space.paths()
    drawn = space.sample(rng, 40)
    rows = np.array([paths.encode(d) for d in drawn])
    assert np.array_equal(paths.reached(rows), rows)
    assert paths.fits(rows).all()
    assert [paths.decode(row).key for row in rows.tolist()] == [d.key for d in drawn]
    fresh = paths.reached(np.full_like(rows, -1), rng)
    for row, fits in zip(fresh.tolist(), paths.fits(fresh), strict=True):
        d = paths.decode(row)
        assert (d is not None) == fits
        assert d is None or (paths.encode(d) == row and space.meets(d))


def test_neighbours_differ_at_one_place_that_is_reached():
    paths = spaces.load("gpt2_elastic").paths()
    d = spaces.load("gpt2_elastic").sample(np.random.default_rng(1), 1)[0]
    row = np.array([paths.encode(d)])
    near = paths.neighbours(row, np.random.default_rng(0))
    reached = row[0] >= 0
    assert len(near) == int((paths.sizes[reached] - 1).sum())
    assert len({n.tobytes() for n in near}) == len(near)
    both = reached & (near >= 0)
    assert (((near != row) & both).sum(1) == 1).all()
    assert len(paths.neighbours(row, np.random.default_rng(0), 7)) == 7


def test_recursive_spaces_do_not_unroll():
    assert spaces.load("einspace").paths() is None


def test_a_literal_space_tells_sentences_apart():
    space = spaces.load("nasbench201")
    # node 2 leads nowhere: what leads to it makes no difference
    texts = [f"cell(nor_conv_3x3,nor_conv_1x1,{op},avg_pool_3x3,avg_pool_3x3,none)" for op in ("nor_conv_1x1", "none")]
    a, b = (space.parse(t) for t in texts)
    literal = space.literal()
    c, d = (literal.parse(t) for t in texts)
    assert a.key == b.key == literal.graph_key(c) == literal.graph_key(d)
    assert c.key != d.key
    assert not space.is_literal
    assert space.graph_key(a) == a.key


@pytest.mark.parametrize("name", ["nasbench201", "einspace", "lora_ranks", "mobilenetv3"])
def test_a_written_space_reads_back(name):
    space = spaces.load(name)
    p = {}
    for ways, own in space.probabilities:
        if len(ways) > 1:
            tilted = np.array(own) * np.linspace(1, 2, len(own))
            p |= dict(zip(ways, (tilted / tilted.sum()).tolist(), strict=True))
    changed = space.with_probabilities(p)
    again = grammar.loads(changed.to_text())
    if space.needs_binding:
        changed, again = changed.bind(SITES), again.bind(SITES)
    for d in changed.sample(np.random.default_rng(0), 10):
        read = again.parse(d.text)
        assert read.key == d.key
        assert again.log_prob(read) == pytest.approx(changed.log_prob(d), abs=1e-6)
    assert again.bounds == changed.bounds


def test_probabilities_that_cannot_be():
    space = spaces.load("nasbench201")
    edge = space.probabilities[1][0]
    with pytest.raises(ValueError, match=rf"production {edge[0]} \(zero\) cannot have p = 0"):
        space.with_probabilities({edge[0]: 0})
    with pytest.raises(ValueError, match=r"those of edge sum to 1\.3"):
        space.with_probabilities({edge[0]: 0.5})
    with pytest.raises(ValueError, match="cannot be written back"):
        spaces.load("elastic_encoder").to_text()
