"""Every op of the shipped spaces goes through torch.export and ONNX, for any batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from archrank import grammar, spaces
from archrank.grammar.heads import with_head
from archrank.search.architecture_export import TakenNetwork, write_network
from archrank.search.config import ConfigError
from archrank.supernet.networks import build

SENTENCES = {
    "convolutions": ("einspace", (3, 8, 8), "seq(route(im2col(3,2,1),linear(16),col2im),seq(norm,leaky_relu))"),
    "windows": ("einspace", (3, 8, 8), "route(im2col(4,4,0),seq(norm,linear(32)),id)"),
    "attention": (
        "einspace", (3, 8, 8),
        "route(im2col(4,4,0),branch2(clone,seq(branch2(clone,linear(16),route(id,linear(16),permute(21)),scaled_matmul),"
        "softmax),linear(16),matmul),id)",
    ),
    "groups": ("einspace", (4, 8, 8), "seq(branch4(group(1),linear(16),concat(2)),route(id,pos_enc,permute(213)))"),
    "sequence": ("einspace_1d", (16, 8), "seq(seq(conv1d(8,32),norm),branch2(clone,id,leaky_relu,add))"),
    "nasbench201": (
        "nasbench201", (3, 8, 8), "cell(nor_conv_3x3,skip_connect,none,avg_pool_3x3,nor_conv_1x1,nor_conv_3x3)",
    ),
    "mobilenetv3": (
        "mobilenetv3", (3, 32, 32),
        f"mobilenetv3(stem,{','.join(['stack2(block(3,3),block(5,4))'] * 5)},head)",
    ),
}  # fmt: skip


def taken(name: str) -> TakenNetwork:
    space_name, shape, text = SENTENCES[name]
    space = spaces.load(space_name).with_input(shape)
    network = build(with_head(space.elaborate(space.parse(text)), 5), seed=0).eval()
    return TakenNetwork(network, text, ("a", "b", "c", "d", "e"))


CASES = [pytest.param(n, marks=pytest.mark.slow if n in ("nasbench201", "mobilenetv3") else ()) for n in SENTENCES]


@pytest.mark.parametrize("name", CASES)
def test_as_a_torch_program(name: str, tmp_path: Path) -> None:
    assert write_network(taken(name), tmp_path / "net", "torch") <= 1e-5


@pytest.mark.parametrize("name", CASES)
def test_as_onnx(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    assert write_network(taken(name), tmp_path / "net", "onnx") <= 1e-4


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from archrank.search import architecture_export

    monkeypatch.setattr(architecture_export, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"ONNX export needs onnx and onnxscript: pip install onnx onnxscript onnxr"):
        taken("windows").export_onnx(tmp_path / "m.onnx")


def test_a_head_is_a_mean_and_a_linear_layer() -> None:
    space = spaces.load("einspace").with_input((3, 8, 8))
    arch = with_head(space.elaborate(space.parse("seq(norm,norm)")), 5)
    assert [op.op for op in arch.ops] == ["norm", "norm", "mean", "linear"]
    assert (arch.params, arch.shape) == (6 + 6 + 4 * 5, (5,))
    assert with_head(arch, 5) is arch
    assert build(arch)(torch.randn(2, 3, 8, 8)).shape == (2, 5)
    with pytest.raises(ValueError, match=r"with_head\(classes=0\): at least 1"):
        with_head(arch, 0)


def test_nasbench201_has_its_own_head() -> None:
    space = spaces.load("nasbench201")
    arch: grammar.Architecture = space.elaborate(space.parse(SENTENCES["nasbench201"][2]))
    assert with_head(arch, 10) is arch
