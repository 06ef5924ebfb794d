"""The heat map of ranks, and where a module stands in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from archrank.search.report import ReportData
from archrank.search.report.modules import places


def test_the_heat_map_has_a_view_for_each_point(
    realistic: ReportData, page: str, figures: Callable[[str], dict[str, Any]]
) -> None:
    kinds = list(dict.fromkeys(m.split(".", 4)[4] for m in realistic.modules))
    views = figures(page)["heatmap"]["views"]
    data = realistic
    assert sorted(v["key"] for v in views) == sorted(data.front)
    assert views[0]["key"] == data.chosen["knee"]
    for view in views:
        cells = view["data"][0]
        assert cells["x"] == ["0", "1", "2"]
        assert cells["y"] == kinds
        shown = [[int(t) if t != "·" else 0 for t in line] for line in cells["text"]]
        ranks = data.ranks[view["key"]]
        assert shown == [[ranks.get(f"vit.encoder.layer.{i}.{k}", 0) for i in range(3)] for k in kinds]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            [
                "model.layers.0.self_attn.q_proj",
                "model.layers.1.self_attn.q_proj",
                "model.layers.10.mlp.up",
                "lm_head",
            ],
            [("self_attn.q_proj", "0"), ("self_attn.q_proj", "1"), ("mlp.up", "10"), ("lm_head", "–")],
        ),
        (["decoder.0.h.4.fc", "decoder.0.h.5.fc"], [("fc", "4"), ("fc", "5")]),
        (
            ["m.layers.0.experts.0.w", "m.layers.0.experts.1.w", "m.layers.1.experts.0.w"],
            [("experts.0.w", "0"), ("experts.1.w", "0"), ("experts.0.w", "1")],
        ),
        (["a.0.x", "b.0.x"], [("a.x", "0"), ("b.x", "0")]),
        (["fc"], [("fc", "–")]),
        ([], []),
    ],
)
def test_layer_and_kind_are_read_off_the_name(names: list[str], expected: list[tuple[str, str]]) -> None:
    assert [(p.kind, p.layer) for p in places(names)] == expected
