"""The shipped architecture spaces against what is published of them."""

from __future__ import annotations

import csv
import gzip
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from archrank import grammar, spaces, supernet

ARCHITECTURES = ["einspace", "einspace_1d", "gpt2_elastic", "mobilenetv3", "nasbench201"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_samples_mutants_and_children_parse_back_and_fit(name: str) -> None:
    space, rng = spaces.load(name), np.random.default_rng(0)
    drawn = space.sample(rng, 20)
    for a, b in pairwise(drawn):
        for child in (a, space.mutate(a, rng), space.crossover(a, b, rng)):
            assert space.parse(child.text) == child
            assert space.meets(child)


def test_nasbench201_has_the_published_cells_and_classes() -> None:
    space = spaces.load("nasbench201")
    keys = {space.trees().derivation(choices).key for choices in space.trees().choices()}
    assert (space.size(), len(keys)) == (15_625, 6_466)


def test_nasbench201_counts_the_published_parameters() -> None:
    """1.531546 M parameters: the benchmark's own figure for six 3×3 convolutions on CIFAR-10."""
    space = spaces.load("nasbench201")
    convs = space.elaborate(space.parse(f"cell({','.join(['nor_conv_3x3'] * 6)})"))
    skips = space.elaborate(space.parse(f"cell({','.join(['skip_connect'] * 6)})"))
    assert (convs.params, skips.params) == (1_531_546, 73_306)
    assert [op.op for op in skips.ops].count("add") == 30


def test_gpt2_elastic_has_the_published_size() -> None:
    assert spaces.load("gpt2_elastic").size() == 6 * (9**10 + 9**11 + 9**12)


def test_mobilenetv3_has_the_published_size() -> None:
    assert spaces.load("mobilenetv3").size() == (9**2 + 9**3 + 9**4) ** 5


def test_mobilenetv3_at_its_largest_is_the_papers_network() -> None:
    """The reference is written out here: OFA-MobileNetV3 at width 1.0, every kernel 7, every ratio 6, four blocks."""

    def conv(a: int, b: int, k: int, groups: int = 1) -> int:
        return a // groups * b * k * k + 2 * b

    def squeeze(c: int) -> int:
        small = {240: 64, 144: 40, 480: 120, 672: 168, 960: 240}[c]
        return 2 * c * small + c + small

    total, width = conv(3, 16, 3) + conv(16, 16, 3, 16) + conv(16, 16, 1), 16
    for out, has_squeeze in ((24, False), (40, True), (80, False), (112, True), (160, True)):
        for _ in range(4):
            inner = 6 * width
            total += conv(width, inner, 1) + conv(inner, inner, 7, inner) + conv(inner, out, 1)
            total += squeeze(inner) if has_squeeze else 0
            width = out
    total += conv(160, 960, 1) + 960 * 1280 + 1280 * 1000 + 1000
    space = spaces.load("mobilenetv3")
    block = "stack4(block(7,6),block(7,6),block(7,6),block(7,6))"
    arch = space.elaborate(space.parse(f"mobilenetv3(stem,{','.join([block] * 5)},head)"))
    assert arch.params == total
    module = supernet.build(arch)
    assert sum(m.kernel_size == (7, 7) for m in module.modules() if isinstance(m, nn.Conv2d)) == 20


def table(name: str) -> Path:
    folder = os.environ.get("ARCHRANK_DATA", "../shared/data")
    file = Path(folder) / name
    if not file.is_file():
        pytest.skip(f"no {name} in {folder}")
    return file


@pytest.mark.shared_data
def test_every_row_of_hw_gpt_bench_is_a_sentence_with_its_parameters_and_macs() -> None:
    file = table("latency/gpt2_small_subnets.csv.gz")
    space = spaces.load("gpt2_elastic")
    with gzip.open(file, "rt") as stream:
        rows = list(csv.DictReader(stream))
    texts = spaces.read_table("gpt2_elastic", file)
    assert len(texts) == len(rows) == 10_000
    for row, text in zip(rows, texts, strict=True):
        arch = space.elaborate(space.parse(text))
        macs = sum(op.flops for op in arch.workload(8).ops if op.op == "linear") // 2
        assert (arch.params, macs) == (int(row["params"]), int(row["macs"]))


@pytest.mark.shared_data
def test_every_row_of_nasbench201_is_another_sentence() -> None:
    texts = spaces.read_table("nasbench201", table("nas/nasbench201.csv.gz"))
    assert len(set(texts)) == 15_625


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"read_table\('einspace'\): tables are known for gpt2_elastic, nasbench201"):
        spaces.read_table("einspace", tmp_path / "t.csv")
    with pytest.raises(ValueError, match=r"t.csv: cannot be read as a table: .*No such file"):
        spaces.read_table("nasbench201", tmp_path / "t.csv")
    file = tmp_path / "t.csv"
    file.write_text("index,architecture\n0,|x~0|\n")
    with pytest.raises(ValueError, match=r"t.csv: no column arch; a table of nasbench201 has arch"):
        spaces.read_table("nasbench201", file)
    good = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    file.write_text(f"arch\n{good}\n{good.replace('none~2', 'conv~2')}\n")
    with pytest.raises(ValueError, match=r"t.csv:3: no sentence of nasbench201: .*found 'conv' where edge"):
        spaces.read_table("nasbench201", file)
    file.write_text("arch\n|none~0|none~1|\n")
    with pytest.raises(ValueError, match=r"t.csv:2: .* is not \|op~0\|\+\|op~0\|op~1\|"):
        spaces.read_table("nasbench201", file)
    (tmp_path / "t.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(ValueError, match=r"t.csv.gz: cannot be read as a table: Not a gzipped file"):
        spaces.read_table("nasbench201", tmp_path / "t.csv.gz")


LAYERS = {f"encoder.layer.{i}": grammar.EncoderLayer(32, 4, 8, 64) for i in range(3)}


def test_elastic_encoder_is_written_out_for_a_base() -> None:
    space = spaces.load("elastic_encoder")
    assert (space.is_layer_space, space.is_site_space, space.needs_binding) == (True, False, True)
    bound = space.bind_layers(LAYERS, length=10)
    assert bound.size() == (1 + 16 * 6**6) ** 3
    assert (bound.needs_binding, bound.is_layer_space, bound.input) == (False, True, (10, 32))
    rng = np.random.default_rng(0)
    for d in bound.sample(rng, 50):
        assert bound.parse(d.text) == d
        assert bound.decode(bound.encode(d)) == d
        child = bound.mutate(d, rng)
        assert bound.meets(child)
        assert child.key != d.key


def test_elastic_encoder_costs_what_its_layers_do() -> None:
    bound = spaces.load("elastic_encoder").bind_layers(LAYERS, length=10)
    text = (
        "encoder.layer.0:keep(heads=50%,ffn=25%,q=lora(2),k=none,v=none,o=none,up=none,down=lora(4)) "
        "encoder.layer.1:drop "
        "encoder.layer.2:keep(heads=100%,ffn=100%,q=none,k=none,v=none,o=none,up=none,down=none)"
    )
    d = bound.parse(text)
    assert d.text == text
    choices = bound.layer_choices(d)
    assert choices["encoder.layer.0"] == grammar.LayerChoice(True, 2, 16, (("q", 2), ("down", 4)))
    assert choices["encoder.layer.1"] == grammar.LayerChoice(False)
    adapters = 2 * (16 + 32) + 4 * (32 + 16)
    small = 3 * (33 * 16) + 17 * 32 + 33 * 16 + 17 * 32 + 128
    full = nn.TransformerEncoderLayer(32, 4, 64)
    arch = bound.elaborate(d)
    assert arch.adapter_params == adapters
    assert arch.params == small + adapters + sum(p.numel() for p in full.parameters())
    linear = 2 * 10 * (4 * 32 * 16 + 2 * 32 * 16 + 4 * 32 * 32 + 2 * 32 * 64 + adapters)
    assert arch.flops == linear + 4 * 10 * 10 * (16 + 32) == arch.workload().flops
    assert bound.cost(d) == grammar.Cost(arch.params, adapters, arch.flops, 4 * arch.params)


def test_elastic_encoder_keeps_budgets_of_parameters_adapters_and_flops() -> None:
    bound = spaces.load("elastic_encoder").bind_layers(LAYERS)
    tight = bound.within(adapter_params=(None, 300), params=(None, 15_000), flops=(None, 3e6))
    seen = set()
    for d in tight.sample(np.random.default_rng(1), 100):
        arch = tight.elaborate(d)
        assert arch.adapter_params <= 300
        assert arch.params <= 15_000
        assert arch.flops <= 3e6
        seen.add(d.key)
    assert len(seen) > 50


def test_elastic_encoder_refuses_what_is_no_base() -> None:
    space = spaces.load("elastic_encoder")
    layer = grammar.EncoderLayer(32, 4, 8, 64)
    for layers, length, message in (
        ({}, 8, "bind_layers needs at least one layer"),
        ({"a b": layer}, 8, r"layer name 'a b' does not match"),
        (
            {"a": grammar.EncoderLayer(32, 0, 8, 64)},
            8,
            r"hidden, heads, head, ffn are whole numbers above 0, not \(32, 0",
        ),
        ({"a": layer, "b": grammar.EncoderLayer(48, 4, 8, 64)}, 8, "the layers of an encoder have one hidden width"),
        ({"a": layer}, 0, r"bind_layers\(length=0\): the number of tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            space.bind_layers(layers, length)
    with pytest.raises(ValueError, match=r"is not bound to one: call space.bind_layers"):
        space.sample(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"cuts the layers of a base: call bind_layers"):
        space.bind({"a": (4, 4)})
    with pytest.raises(ValueError, match=r"lora_ranks cuts no layers"):
        spaces.load("lora_ranks").bind_layers({"a": layer})
