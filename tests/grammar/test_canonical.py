"""Keys of architectures: equal exactly where the graphs of ops are.

The oracle is independent of the canonical form: labelled graphs of the elaborated ops, compared by networkx. Places
among an op's inputs count except for `add`.

"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from functools import cache

import networkx as nx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networkx.algorithms.isomorphism import DiGraphMatcher

from archrank import grammar, spaces
from archrank.grammar import Space
from archrank.grammar.architecture import Architecture

SMALL = """//@ input = 4x4
//@ max size = {size}
start: m
m: "seq"    "(" m "," m ")"            -> seq      //@ p = 0.2
 | "branch2" "(" s "," m "," m "," j ")" -> branch2  //@ p = 0.2
 | "branch4" "(" s "," m "," j ")"     -> branch4  //@ p = 0.1, copies(m) = 4
 | "route"  "(" p "," m "," p ")"      -> route    //@ p = 0.1
 | "id"                                -> id
 | "norm"                              -> norm
 | "lin" "(" W ")"                     -> linear
s: "clone" -> clone
 | "group" "(" A ")" -> group
j: "add" -> add
 | "concat" "(" A ")" -> concat
 | "matmul" -> matmul
p: "id" -> id
 | "permute" "(" O ")" -> permute
A: "1" | "2"
W: "4" | "8"
O: "21" | "12"
%ignore /\\s+/
"""


def labelled(arch: Architecture) -> nx.DiGraph:
    """The graph with an end node, a label on each node and the places on each edge."""
    graph = nx.DiGraph()
    graph.add_node(-1, label="input")
    for i, node in enumerate(arch.ops):
        graph.add_node(i, label=f"{node.op}{node.arguments}")
        for read in dict.fromkeys(node.inputs):
            places = tuple(k for k, other in enumerate(node.inputs) if other == read)
            graph.add_edge(read, i, label=len(places) if node.op == "add" else places)
    graph.add_node("end", label="end")
    graph.add_edge(arch.output, "end", label=0)
    return graph


def isomorphic(a: nx.DiGraph, b: nx.DiGraph) -> bool:
    def same(x: dict[str, object], y: dict[str, object]) -> bool:
        return x["label"] == y["label"]

    return bool(DiGraphMatcher(a, b, node_match=same, edge_match=same).is_isomorphic())


def fingerprint(graph: nx.DiGraph) -> tuple[str, ...]:
    """Equal for isomorphic graphs: what each node computes, unfolded to a tree, as a sorted list of hashes."""
    found: dict[object, str] = {}
    for node in nx.lexicographical_topological_sort(graph, key=str):
        reads = [f"{graph.edges[e]['label']}{found[e[0]]}" for e in graph.in_edges(node)]
        text = graph.nodes[node]["label"] + "|".join(sorted(reads))
        found[node] = hashlib.sha256(text.encode()).hexdigest()
    return tuple(sorted(found.values()))


def test_keys_are_the_graphs_of_a_whole_small_space() -> None:
    """Every sentence up to a size: as many keys as graphs, and each key has one graph."""
    space = grammar.loads(SMALL.format(size=7))
    by_key: dict[str, list[nx.DiGraph]] = defaultdict(list)
    count = 0
    for d in space.enumerate():
        by_key[d.key].append(labelled(space.elaborate(d)))
        count += 1
    assert count > 1500
    prints = defaultdict(list)
    for key, graphs in by_key.items():
        assert len({fingerprint(graph) for graph in graphs}) == 1
        assert all(isomorphic(graphs[0], other) for other in graphs[1:3])
        prints[fingerprint(graphs[0])].append(key)
    for keys in prints.values():
        for i, key in enumerate(keys):
            assert not any(isomorphic(by_key[key][0], by_key[other][0]) for other in keys[:i])
    assert len(by_key) < 0.8 * count


Tree = tuple[str, tuple["Tree", ...]]


@cache
def einspace() -> Space:
    return spaces.load("einspace")


def tree(text: str) -> Tree:
    """A sentence as nested words; the numbers of a leaf belong to its word."""
    at = 0

    def word() -> str:
        nonlocal at
        begin = at
        while at < len(text) and text[at] not in "(),":
            at += 1
        return text[begin:at]

    def node() -> Tree:
        nonlocal at
        name = word()
        if at == len(text) or text[at] != "(":
            return name, ()
        if text[at + 1].isdigit():
            end = text.index(")", at)
            name, at = text[begin_of(name) : end + 1], end + 1
            return name, ()
        parts = []
        while text[at] in "(,":
            at += 1
            parts.append(node())
        at += 1
        return name, tuple(parts)

    def begin_of(name: str) -> int:
        return at - len(name)

    return node()


def written(t: Tree) -> str:
    return f"{t[0]}({','.join(map(written, t[1]))})" if t[1] else t[0]


ID: Tree = ("id", ())
STRUCTURES = ("seq", "route", "branch2", "branch4", "branch8")


def is_module(parent: Tree | None, place: int) -> bool:
    """Whether what stands there is a module: not the way in or out of a route, no split, no join."""
    return parent is None or parent[0] == "seq" or 0 < place < len(parent[1]) - 1


def rewritten(t: Tree, draw: np.random.Generator, parent: Tree | None = None, place: int = 0) -> Tree:
    """Random changes that keep the graph; the top stays a structure, as a network has to be one."""
    name, parts = t
    t = name, tuple(rewritten(part, draw, t, i) for i, part in enumerate(parts))
    if not is_module(parent, place):
        return t
    name, parts = t
    kind = draw.integers(10)
    if kind == 0:
        return "seq", (t, ID)
    if kind == 1:
        return "seq", (ID, t)
    if kind == 2:
        return "route", (ID, t, ID)
    if kind <= 5 and name == "seq":
        (left, right) = parts
        if left[0] == "seq":
            return "seq", (left[1][0], ("seq", (left[1][1], right)))
        if right[0] == "seq":
            return "seq", (("seq", (left, right[1][0])), right[1][1])
    if kind <= 5 and name == "route":
        before, module, after = parts
        return "seq", (("route", (before, ID, ID)), ("route", (ID, module, after)))
    if kind <= 5 and name == "branch2" and parts[0] == ("clone", ()) and parts[3] == ("add", ()):
        return "branch2", (parts[0], parts[2], parts[1], parts[3])
    if kind <= 7 and parent is not None:
        if name == "seq" and ID in parts:
            return parts[1 - parts.index(ID)]
        if name == "route" and parts[0] == parts[2] == ID:
            return parts[1]
    return t


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1))
def test_rewrites_that_keep_the_graph_keep_the_key(seed: int) -> None:
    space, rng = einspace(), np.random.default_rng(seed)
    d = space.sample(rng)[0]
    if len(d.choices) > 400:
        return
    assert written(tree(d.text)) == d.text
    changed = d
    for _ in range(3):
        changed = space.parse(written(rewritten(tree(changed.text), rng)))
        assert changed.key == d.key, (d.text, changed.text)
        assert space.parse(changed.text).key == changed.key
    a, b = space.elaborate(d), space.elaborate(changed)
    assert (a.params, a.flops, a.shape, a.activation_bytes) == (b.params, b.flops, b.shape, b.activation_bytes)
    assert fingerprint(labelled(a)) == fingerprint(labelled(b))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1))
def test_other_graphs_have_other_keys(seed: int) -> None:
    """Of parents and mutants: the keys agree exactly where the graphs do."""
    space, rng = einspace().within(size=(None, 40)), np.random.default_rng(seed)
    for d in space.sample(rng, 3):
        other = space.mutate(d, rng)
        a, b = labelled(space.elaborate(d)), labelled(space.elaborate(other))
        assert d.key != other.key
        assert fingerprint(a) != fingerprint(b) or not isomorphic(a, b)


def key(text: str) -> str:
    return einspace().parse(text).key


SAME = [
    ["seq(norm,seq(softmax,norm))", "seq(seq(norm,softmax),norm)", "seq(seq(norm,id),route(id,seq(softmax,norm),id))",
     "route(id,seq(norm,seq(id,seq(softmax,norm))),id)"],
    ["branch2(clone,norm,softmax,add)", "branch2(clone,softmax,norm,add)", "branch2(clone,seq(id,softmax),norm,add)",
     "seq(id,branch2(clone,softmax,norm,add))"],
    ["branch2(clone,id,branch2(clone,norm,softmax,add),add)", "branch2(clone,branch2(clone,softmax,norm,add),id,add)"],
    ["route(im2col(3,1,1),linear(16),col2im)", "seq(route(im2col(3,1,1),id,id),route(id,linear(16),col2im))"],
    ["branch4(clone,seq(id,norm),add)", "branch4(clone,norm,add)"],
    ["seq(id,id)", "route(id,id,id)", "seq(seq(id,id),id)"],
]  # fmt: skip
OTHER = [
    ("seq(norm,softmax)", "seq(softmax,norm)"),
    ("branch2(group(1),norm,softmax,add)", "branch2(group(1),softmax,norm,add)"),
    ("branch2(clone,norm,softmax,concat(1))", "branch2(clone,softmax,norm,concat(1))"),
    ("branch2(clone,norm,softmax,matmul)", "branch2(clone,softmax,norm,matmul)"),
    ("branch2(clone,norm,softmax,scaled_matmul)", "branch2(clone,norm,softmax,matmul)"),
    ("branch2(clone,norm,norm,add)", "branch2(clone,id,norm,add)"),
    ("branch2(clone,seq(norm,softmax),norm,add)", "seq(norm,branch2(clone,softmax,id,add))"),
    ("branch2(clone,branch2(clone,id,norm,add),softmax,add)", "branch2(clone,id,branch2(clone,norm,softmax,add),add)"),
    ("branch4(clone,norm,add)", "branch8(clone,norm,add)"),
    ("branch2(clone,norm,norm,add)", "branch4(clone,norm,add)"),
    ("branch2(group(1),id,id,concat(1))", "branch2(group(2),id,id,concat(2))"),
    ("seq(linear(16),id)", "seq(linear(32),id)"),
    ("route(permute(321),id,id)", "route(id,id,permute(213))"),
    ("route(im2col(3,1,1),id,id)", "route(im2col(3,2,1),id,id)"),
    ("seq(id,id)", "seq(id,norm)"),
]


@pytest.mark.parametrize("texts", SAME)
def test_one_architecture_has_one_key(texts: list[str]) -> None:
    assert len({key(text) for text in texts}) == 1


@pytest.mark.parametrize(("a", "b"), OTHER)
def test_two_architectures_have_two_keys(a: str, b: str) -> None:
    assert key(a) != key(b)


def test_a_sum_does_not_pass_on_the_grid_of_its_first_branch() -> None:
    """Modules that are exchanged must not change what follows: rows 64x3 of a 4x16 image plus those of a 16x4 one."""
    wide = "seq(linear(16),route(im2col(1,1,0),id,id))"
    high = "seq(route(permute(132),linear(16),permute(132)),route(im2col(1,1,0),id,id))"
    for a, b in ((wide, high), (high, wide)):
        d = einspace().parse(f"seq(branch2(clone,{a},{b},add),route(id,id,col2im))")
        with pytest.raises(grammar.SpaceError, match="col2im does not fit its input of shape 64x3"):
            einspace().elaborate(d, input=(3, 4, 4))
    assert key(f"branch2(clone,{wide},{high},add)") == key(f"branch2(clone,{high},{wide},add)")


def test_the_key_is_of_the_sentence_not_of_the_input() -> None:
    space = einspace()
    d = space.sample(np.random.default_rng(4))[0]
    assert space.with_input((3, 32, 32)).parse(d.text).key == d.key == space.within(size=(None, 300)).parse(d.text).key
