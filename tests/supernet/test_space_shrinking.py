"""Diversity-guided shrinking: the score of an option by hand, what leaves, what stays, the ablation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from archrank import grammar, spaces
from archrank.supernet.space_shrinking import (
    Sampled,
    Shrinkage,
    ShrinkError,
    option_scores,
    sampled,
    shrunk,
)

FILE = """//@ input = 8x4
start: "one" "(" a "," b ")" -> seq
     | "two" "(" a "," b ")" -> option1
a: "p" -> id //@ p = 0.5
 | "q" "(" W ")" -> linear
b: "r" -> id
 | "s" -> norm
W: "2" | "3"
%ignore /\\s+/
"""


def space() -> grammar.Space:
    return grammar.loads(FILE.replace('"(" a "," b ")" -> option1', '"(" both ")" -> option1\nboth: a "," b -> seq'))


def known(values: dict[str, tuple[float, float]]) -> list[Sampled]:
    return [Sampled(space().parse(text), loss, unlike) for text, (loss, unlike) in values.items()]


FOUND = {
    "one(p,r)": (1.0, 0.0), "one(p,s)": (2.0, 0.1), "one(q(2),r)": (1.5, 0.6), "one(q(2),s)": (3.0, 0.5),
    "one(q(3),r)": (1.2, 0.2), "two(q(3),s)": (2.2, 0.4),
}  # fmt: skip


def test_a_score_is_minus_the_mean_loss_plus_the_weighted_mean_diversity() -> None:
    recipe = Shrinkage(weight=0.5, least=1, share=0.3)
    scores = {s.name: s for s in option_scores(space(), known(FOUND), recipe)}
    assert set(scores) == {"a = id", "a = linear", "b = id", "b = norm", "W = 2", "W = 3"}  # never the start rule's
    q = scores["a = linear"]
    assert (q.seen, q.potential) == (4, pytest.approx(-(1.5 + 3 + 1.2 + 2.2) / 4))
    assert q.diversity == pytest.approx((0.6 + 0.5 + 0.2 + 0.4) / 4)
    assert q.score == pytest.approx(q.potential + 0.5 * q.diversity)
    assert q.margin == pytest.approx(q.score - scores["a = id"].score)
    assert scores["a = id"].margin == 0
    lowest = min(scores.values(), key=lambda s: s.margin)
    assert lowest.name == "b = norm"
    assert [s.name for s in scores.values() if s.dropped] == ["b = norm"]  # ⌊0.3 · 6⌋ = 1


def test_the_weight_decides_and_zero_ablates_the_diversity() -> None:
    values = {"one(p,r)": (1.0, 0.0), "one(q(2),r)": (1.2, 0.5), "two(p,r)": (1.0, 0.0), "two(q(2),r)": (1.2, 0.5)}

    def gone(weight: float) -> list[str]:
        recipe = Shrinkage(weight=weight, least=1, share=0.5)
        return [s.name for s in option_scores(space(), known(values), recipe) if s.dropped]

    assert gone(0.0) == ["a = linear"]
    assert gone(1.0) == ["a = id"]


def test_what_leaves_is_not_drawn_again_and_still_parses() -> None:
    scores = option_scores(space(), known(FOUND), Shrinkage(least=1, share=0.5, weight=0))
    smaller, marked = shrunk(space(), scores)
    gone = {s.name for s in marked if s.dropped}
    assert gone == {"b = norm", "a = linear", "W = 2"}
    drawn = {d.text for d in smaller.sample(np.random.default_rng(0), 50)}
    assert drawn == {"one(p,r)", "two(p,r)"}
    assert smaller.log_prob(smaller.parse("one(p,r)")) == pytest.approx(math.log(0.5))
    assert smaller.log_prob(smaller.parse("one(p,s)")) == -math.inf
    again = space().without([s.production for s in marked if s.dropped])
    assert {d.text for d in again.enumerate()} == {d.text for d in smaller.enumerate()}


def test_options_seen_too_rarely_stay() -> None:
    scores = option_scores(space(), known(FOUND), Shrinkage(least=3, share=0.9, weight=0))
    assert {s.name for s in scores if s.dropped} == {"b = norm", "a = linear"}  # W = 2 was seen twice


def test_a_round_that_would_leave_nothing_drops_fewer() -> None:
    scores = option_scores(space(), known(FOUND), Shrinkage(least=1, share=0.9, weight=0))
    assert sum(s.dropped for s in scores) == 3
    smaller, marked = shrunk(space(), scores, accept=lambda d: "s" in d.text[4:])
    assert not any(s.dropped for s in marked)  # b = norm is the worst, and all that is accepted
    assert smaller.size() == space().size()
    smaller, marked = shrunk(space(), scores, accept=lambda d: "q" in d.text)
    assert [s.name for s in marked if s.dropped] == ["b = norm"]


def test_candidates_that_are_refused_are_not_sampled() -> None:
    found = sampled(space(), lambda d: (1.0, 0.0), 5, (0,), accept=lambda d: d.text.startswith("two"))
    assert len(found) == 5
    assert all(s.derivation.text.startswith("two") for s in found)
    assert found == sampled(space(), lambda d: (1.0, 0.0), 5, (0,), accept=lambda d: d.text.startswith("two"))
    with pytest.raises(ShrinkError, match=r"none of 300 sampled candidates of <text> is taken: loosen the constraints"):
        sampled(space(), lambda d: (1.0, 0.0), 5, (0,), accept=lambda d: False)


def test_bad_recipes_and_values_are_told() -> None:
    with pytest.raises(ShrinkError, match=r"share lies between 0 and 1"):
        Shrinkage(share=1.0)
    with pytest.raises(ShrinkError, match=r"the weight of the diversity is at least 0"):
        Shrinkage(weight=-1)
    with pytest.raises(ShrinkError, match="nothing was sampled to shrink the space by"):
        option_scores(space(), [], Shrinkage())
    with pytest.raises(ShrinkError, match=r"one\(p,r\): loss nan, diversity 0 cannot be compared"):
        option_scores(space(), [Sampled(space().parse("one(p,r)"), math.nan, 0)], Shrinkage())
    with pytest.raises(ValueError, match="b would lose its last alternative"):
        space().without([s.production for s in option_scores(space(), known(FOUND), Shrinkage()) if s.name[0] == "b"])
    with pytest.raises(ValueError, match="production 999: the grammar has numbers from 0 to"):
        space().without([999])
    with pytest.raises(ValueError, match=r"without: lora_ranks is a space of sites"):
        spaces.load("lora_ranks").without([0])


def test_options_leave_one_layer_and_stay_at_the_others() -> None:
    layers = {f"l{i}": grammar.EncoderLayer(32, 4, 8, 64) for i in range(2)}
    bound = spaces.load("elastic_ensemble").bind_layers(layers)
    drawn = bound.sample(np.random.default_rng(0), 200)
    number = next(i for d in drawn for i in bound.choices(d) if bound.production_name(i) == "FFN@l1 = 25%")
    assert len(bound.siblings(number)) == 4
    left = [d.text for d in bound.without([number]).sample(np.random.default_rng(1), 200)]
    parts = [part.split(":keep")[1] for text in left for part in text.split(" l")[1:] if part.startswith("1:keep")]
    assert parts
    assert not any("ffn=25%" in part for part in parts)
    assert any("l0:keep" in text and "ffn=25%" in text for text in left)
