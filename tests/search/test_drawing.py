"""Pictures: what is drawn once, where it stands, that the SVG is XML and the text keeps its width."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from archrank import grammar, spaces
from archrank.grammar.architecture import Architecture
from archrank.search import drawing
from archrank.search.drawing import Bar
from archrank.search.drawing.blocks import Box, Sheet, sheet
from archrank.search.drawing.folding import merge, picture_of
from archrank.search.drawing.layers import Spacing, arranged, spread
from archrank.search.drawing.picture import Frame, Picture, percent
from archrank.search.drawing.routes import Gaps, placed
from archrank.search.report import ReportData, render

SVG = "{http://www.w3.org/2000/svg}"
RESIDUAL = "branch2(clone,seq(norm,linear(64)),id,add)"


@cache
def einspace() -> grammar.Space:
    return spaces.load("einspace")


def built(text: str) -> Architecture:
    return einspace().elaborate(einspace().parse(text))


@cache
def sampled() -> tuple[Architecture, ...]:
    space = einspace().within(size=(20, 400))
    return tuple(space.elaborate(d) for d in space.sample(np.random.default_rng(7), n=80))


def words(picture: Picture) -> list[object]:
    """The picture as nested lists: the words of rows, frames as [word, content]."""
    return [
        [item.word, words(item.body)]
        if isinstance(item, Frame)
        else item.word + (f" × {item.times}" if item.times > 1 else "")
        for item in picture.items
    ]


def total(picture: Picture) -> tuple[int, int, int]:
    """Ops, parameters and FLOPs with every copy counted; a split counts as one op."""
    found = np.zeros(3, dtype=object)
    for item in picture.items:
        if isinstance(item, Frame):
            found += item.count * np.array(total(item.body), dtype=object)
        else:
            found += item.times * np.array([1, item.params, item.flops], dtype=object)
    return tuple(found.tolist())


def test_copies_stand_once() -> None:
    nested = picture_of(built("branch8(group(2),branch4(group(3),seq(linear(128),norm),concat(1)),concat(2))"))
    inner = ["× 4 side by side", ["linear 128", "norm"]]
    assert words(nested) == ["group 2 → 8", ["× 8 side by side", ["group 3 → 4", inner, "concat 1"]], "concat 2"]
    assert nested.reads == ((-1,), (0,), (1,))


def test_one_op_that_is_copied_is_a_row_with_a_number() -> None:
    found = picture_of(built("seq(linear(64),branch4(clone,norm,add))"))
    assert words(found) == ["linear 64", "norm × 4", "add"]
    assert found.reads == ((-1,), (0,), (1,))


def test_what_is_read_several_times_keeps_its_number() -> None:
    assert picture_of(built("seq(linear(64),branch4(clone,id,add))")).reads == ((-1,), (0, 0, 0, 0))


def test_branches_of_equal_text_are_two() -> None:
    assert words(picture_of(built("branch2(clone,linear(64),linear(64),add)"))) == ["linear 64", "linear 64", "add"]


def test_layers_that_repeat_stand_once() -> None:
    tower = f"seq(linear(64),seq({RESIDUAL},seq({RESIDUAL},seq({RESIDUAL},norm))))"
    assert words(picture_of(built(tower))) == ["linear 64", ["× 3 in a row", ["norm", "linear 64", "add"]], "norm"]


def test_layers_that_repeat_inside_of_a_branch_stand_once() -> None:
    tower = f"seq(linear(64),branch2(clone,seq({RESIDUAL},seq({RESIDUAL},{RESIDUAL})),id,add))"
    found = picture_of(built(tower))
    assert words(found) == ["linear 64", ["× 3 in a row", ["norm", "linear 64", "add"]], "add"]
    assert found.reads == ((-1,), (0,), (1, 0))


def test_layers_of_other_width_do_not_repeat() -> None:
    assert len(picture_of(built("seq(linear(64),seq(linear(32),seq(linear(64),linear(32))))")).items) == 4


def test_nothing_is_lost_in_the_picture() -> None:
    for architecture in sampled():
        ops, params, flops = total(picture_of(architecture))
        assert (params, flops) == (architecture.params, architecture.flops)
        pieces = sum(op.op == "group" and op.arguments[-2] != 0 for op in architecture.ops)
        assert ops == len(architecture.ops) - pieces


def test_a_network_without_ops() -> None:
    empty = built("seq(id,id)")
    assert picture_of(empty).items == ()
    assert "input 3×64×64" in drawing.svg(empty)
    assert drawing.ascii(empty).splitlines()[-2:] == ["○  input 3×64×64", "○  output"]


def test_merge_counts_copies() -> None:
    merged = merge(built("branch8(group(2),branch4(group(3),linear(128),concat(1)),concat(2))"))
    assert [row.word for row in merged.rows] == ["group 2 → 8", "group 3 → 4", "linear 128", "concat 1", "concat 2"]
    assert merged.counts == [1, 8, 32, 8, 1]


@pytest.mark.parametrize(("value", "text"), [(0, ""), (1e-9, "<0.1 %"), (0.0123, "1.2 %"), (0.5, "50 %"), (1, "100 %")])
def test_percent(value: float, text: str) -> None:
    assert percent(value) == text


def test_spread_keeps_distances_and_is_least_squares() -> None:
    assert spread([0.0, 0.0], [1.0, 1.0], [10.0]) == [-5.0, 5.0]
    assert spread([0.0, 0.0], [3.0, 1.0], [8.0]) == [-2.0, 6.0]
    assert spread([0.0, 30.0], [1.0, 1.0], [10.0]) == [0.0, 30.0]


def test_a_skip_connection_leaves_its_block_straight() -> None:
    edges = [(0, 1), (1, 2), (2, 3), (0, 3)]
    sizes = [(80.0, 20.0)] * 4
    ports = [(0.0, 0.0)] * 4
    layering = arranged([width for width, _ in sizes], edges, ports, Spacing())
    assert max(layering.centres[:4]) - min(layering.centres[:4]) < 0.5, "the block and what follows stand in line"
    routes = placed(layering, sizes, ports, Gaps()).routes
    assert [len(route) for route in routes] == [2, 2, 2, 6]
    assert all(x > layering.centres[1] + 40 for x, _ in routes[3][2:4]), "the skip passes beside the block"


def test_crossings_are_sorted_out() -> None:
    edges = [(0, 1), (0, 2), (0, 3), (1, 6), (2, 5), (3, 4)]
    layering = arranged([20.0] * 7, edges, [(0.0, 0.0)] * 6, Spacing())
    x = layering.centres
    assert [x[1] < x[2] < x[3], x[6] < x[5] < x[4]] in ([True, True], [False, False])


def sheets(drawn: Sheet) -> list[Sheet]:
    return [drawn, *(s for block in drawn.blocks if isinstance(block, Box) for s in sheets(block.inside))]


def test_no_box_overlaps_another_and_no_arrow_crosses_one() -> None:
    for architecture in sampled():
        for drawn in sheets(sheet(picture_of(architecture), ("input", "output"))):
            boxes = [
                (x - block.size[0] / 2 + 0.1, y + 0.1, x + block.size[0] / 2 - 0.1, y + block.size[1] - 0.1)
                for block, x, y in zip(drawn.blocks, drawn.centres, drawn.placed.tops, strict=True)
            ]
            pieces = [
                (min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1]), arrow)
                for arrow, route in zip(drawn.arrows, drawn.placed.routes, strict=True)
                for a, b in pairwise(route)
            ]
            for i, (left, top, right, foot) in enumerate(boxes):
                for other in boxes[:i]:
                    assert left >= other[2] or other[0] >= right or top >= other[3] or other[1] >= foot
                for x0, y0, x1, y1, arrow in pieces:
                    if i not in (arrow.source, arrow.target):
                        assert left >= x1 or x0 >= right or top >= y1 or y0 >= foot


def test_svg_is_xml_that_needs_nothing_else() -> None:
    for architecture in sampled():
        text = drawing.svg(architecture, "a <b> & \x07 title")
        root = ElementTree.fromstring(text)
        assert root.tag == SVG + "svg"
        named = (root.get("aria-labelledby") or "").split()
        told = {root.find(f"{SVG}{tag}") for tag in ("title", "desc")}
        assert {element.get("id") for element in told if element is not None} == set(named)
        assert root.findtext(SVG + "title") == "a <b> &   title"
        assert not re.search(r"(href|src|url\(|@import|<script|<image|on\w+=)", text)
        assert "prefers-color-scheme: dark" in text


def test_svg_says_what_the_ops_are_as_text() -> None:
    root = ElementTree.fromstring(drawing.svg(built(f"seq(linear(64),{RESIDUAL})"), "r"))
    told = ["".join(element.itertext()) for element in root.iter(SVG + "text")]
    assert [t for t in told if t in ("linear 64", "norm", "add", "input 3×64×64", "output 3×64×64")] == [
        "input 3×64×64", "linear 64", "norm", "linear 64", "add", "output 3×64×64",
    ]  # fmt: skip
    tips = [element.text for element in root.iter(SVG + "title")]
    assert "linear 64: 3×64×64 → 3×64×64, 4,160 parameters, 1,572,864 FLOPs, 50 % of all parameters" in tips


def test_a_matrix_product_shows_its_operands_from_left_to_right() -> None:
    first = built("seq(linear(64),branch2(clone,norm,seq(softmax,norm),matmul))")
    drawn = sheet(picture_of(first), ("i", "o"))
    target = max(arrow.target for arrow in drawn.arrows if arrow.target < len(drawn.blocks) - 1)
    entering = [route[-1][0] for a, route in zip(drawn.arrows, drawn.placed.routes, strict=True) if a.target == target]
    assert len(set(entering)) == 2
    assert entering == sorted(entering)


def test_ascii_of_a_residual_block() -> None:
    lines = drawing.ascii(built(f"seq(linear(64),{RESIDUAL})"), "title").splitlines()
    assert lines[0] == "title"
    assert lines[1].startswith("3×64×64 → 3×64×64 · 4 ops · 8,326 parameters · 3,145,728 FLOPs")
    assert [line.rstrip() for line in lines[3:]] == [
        "○    input 3×64×64",
        "●    linear 64  3×64×64              4,160   50 %",
        "├─╮",
        "● │  norm       3×64×64                  6  0.1 %",
        "● │  linear 64  3×64×64              4,160   50 %",
        "├─╯",
        "●    add        3×64×64",
        "○    output",
    ]


def test_ascii_of_copies_and_of_lanes_that_pass() -> None:
    inner = "branch4(clone,seq(norm,branch2(clone,linear(64),id,add)),add)"
    lines = drawing.ascii(built(f"seq(linear(64),branch2(clone,{inner},id,add))")).splitlines()
    assert [re.sub(r"  +\S*×\d.*$", "", line) for line in lines[2:]] == [
        "○    input 3×64×64",
        "●    linear 64",
        "├─╮",
        "■ │  ╭ × 4 side by side",
        "┆ │  │ ●    norm",
        "┆ │  │ ├─╮",
        "┆ │  │ ● │  linear 64",
        "┆ │  │ ├─╯",
        "┆ │  │ ●    add",
        "┆ │  ╰",
        "● │  add",
        "├─╯",
        "●    add",
        "○    output",
    ]


@pytest.mark.parametrize("width", [1, 40, 60, 100])
def test_ascii_keeps_its_width(width: int) -> None:
    for architecture in sampled():
        assert max(map(len, drawing.ascii(architecture, "x" * 200, width).splitlines())) <= max(40, width)


def test_a_cell_whose_branches_cross() -> None:
    space = spaces.load("nasbench201")
    cell = "cell(nor_conv_3x3,nor_conv_1x1,nor_conv_3x3,skip_connect,avg_pool_3x3,none)"
    architecture = space.elaborate(space.parse(cell))
    found = picture_of(architecture)
    assert [item.word for item in found.items] == [
        "nb201_stem", "× 5 in a row", "nb201_reduction", "× 5 in a row", "nb201_reduction", "× 5 in a row",
        "nb201_head 10",
    ]  # fmt: skip
    ElementTree.fromstring(drawing.svg(architecture))


@pytest.mark.parametrize("name", [name for name in spaces.available() if spaces.load(name).is_architecture_space])
def test_every_shipped_space_has_pictures(name: str) -> None:
    space = spaces.load(name)
    for d in space.sample(np.random.default_rng(3), n=10):
        architecture = space.elaborate(d)
        ElementTree.fromstring(drawing.svg(architecture, d.text))
        assert drawing.ascii(architecture).count("\n") < 2000


def test_deep_and_long_networks() -> None:
    deep = "linear(64)"
    for _ in range(150):
        deep = f"branch2(clone,seq(linear(64),seq({deep},linear(64))),id,add)"
    nested = built(f"seq(linear(64),{deep})")
    assert drawing.ascii(nested).count("●") == 452
    with pytest.raises(drawing.DrawingError, match=r"arrows pass more than 20,000 places; --format ascii draws it"):
        drawing.svg(nested)
    widths = np.random.default_rng(0).choice([16, 32, 64, 128], size=4000)
    long = "id"
    for width in widths:
        long = f"seq(linear({width}),{long})"
    with pytest.raises(drawing.DrawingError, match=r"would have [34],\d{3} rows, at most 3,000 are drawn"):
        drawing.svg(built(long))


def test_many_copies_cost_nothing() -> None:
    huge = built("branch8(clone," * 5 + "linear(64)" + ",add)" * 5)
    assert len(huge.ops) == 37449
    assert picture_of(huge).rows() == 6


BARS = [Bar("a.q", "lora(8)", 8, 1024), Bar("a.v", "lora(2)", 2, 256), Bar("a.<o>", "", 0, 0)]


def test_ranks_as_bars_of_text() -> None:
    lines = drawing.rank_ascii(BARS, "title", 60).splitlines()
    assert lines[:2] == ["title", "2 of 3 modules adapted · ranks 2–8, sum 10 · 1,280 adapter"]
    assert [line.count("█") for line in lines[-3:]] == [37, 9, 0]
    assert lines[-1] == "a.<o>  left alone"
    assert max(map(len, lines)) <= 60


def test_ranks_as_svg() -> None:
    root = ElementTree.fromstring(drawing.rank_svg(BARS, "title"))
    bars = [float(e.get("width") or 0) for e in root.iter(SVG + "rect") if e.get("class") == "tint"]
    assert bars == [320.0, 80.0, 0.0]
    assert "a.<o>: left alone" in [e.text for e in root.iter(SVG + "title")]
    assert root.findtext(SVG + "desc") == "2 of 3 modules adapted · ranks 2–8, sum 10 · 1,280 adapter parameters"
    assert "none of 1 modules adapted" in drawing.rank_svg(BARS[2:])


def test_pieces_of_a_split_that_go_different_ways() -> None:
    found = picture_of(built("branch2(group(2),norm,linear(64),concat(2))"))
    assert words(found) == ["group 2 → 2", "norm", "linear 64", "concat 2"]
    assert found.reads == ((-1,), (0,), (0,), (1, 2))


def test_a_value_that_nobody_reads_is_drawn_too() -> None:
    one = built("seq(norm,softmax)")
    loose = Architecture(one.input, (one.ops[0], one.ops[1]._replace(inputs=(-1,))), 1, one.signatures)
    assert 'class="arrow unread"' in drawing.svg(loose)
    assert [line[:3].rstrip() for line in drawing.ascii(loose).splitlines()[2:]] == ["○", "├─╮", "● │", "  ●", "  ○"]


def test_the_report_holds_the_networks_of_its_trials() -> None:
    trials = [{"id": i, "text": "t", "values": {"loss": 1.0}, "stage": "final", "state": "done"} for i in (1, 2)]
    pictures = {i: drawing.svg(built(f"seq(linear({width}),norm)")) for i, width in ((1, 16), (2, 32))}
    page = render(ReportData("r", [("loss", "min", "")], trials, chosen={"<knee>": 2}, pictures=pictures))
    section = page.partition('<section id="pictures">')[2].partition("</section>")[0]
    assert re.findall(r"<details( open)?><summary>(.*?)</summary>", section) == [
        (" open", "#1"),
        ("", "#2 · &lt;knee&gt;"),
    ]
    assert section.count("<svg ") == section.count("</svg>") == 2
    assert len(set(re.findall(r' id="(\w+)"', section))) == 4
    with pytest.raises(ValueError, match=r"trials \[3\] are on the front, chosen or drawn but not among the 2 trials"):
        ReportData("r", [("loss", "min", "")], trials, pictures={3: "<svg/>"})
    assert 'id="pictures"' not in render(ReportData("r", [("loss", "min", "")], trials))
