"""Every op of the shipped spaces goes through torch.export and ONNX, for any batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from archrank import grammar, spaces
from archrank.grammar.heads import with_head
from archrank.search.architecture_export import TakenNetwork, write_network
from archrank.supernet import onnx_export
from archrank.supernet.export import ExportDiffers, ExportRefused
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
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ExportRefused, match=r"ONNX export needs onnxscript: pip install onnx onnxscript onnxruntime"):
        taken("windows").export_onnx(tmp_path / "m.onnx")


class Odd(nn.Module):
    def __init__(self, odd: nn.Module) -> None:
        super().__init__()
        self.linear, self.odd = nn.Linear(4, 4), odd

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.odd(self.linear(x))
        return out


class Eigenvalues(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(x @ x.mT).abs()


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        (Eigenvalues(), r"ONNX: no form of aten\.linalg_eig of <odd>; nothing was written"),
        (Branches(), r"torch\.export cannot trace <odd> \(.*data-dependent.*\); nothing was written"),
    ],
)
def test_what_cannot_be_exported_is_named(
    odd: nn.Module, told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    probes = [{"x": torch.randn(2, 4, 4)}]
    with pytest.raises(ExportRefused, match=told):
        onnx_export.write_onnx(Odd(odd), tmp_path / "m.onnx", probes, {"x": (0,)}, lambda path: f"<{path}>")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_file_that_answers_otherwise_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "EXACT", -1.0)
    with pytest.raises(ExportDiffers, match=r"the onnx file answers otherwise by .*; nothing was kept"):
        taken("windows").export_onnx(tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


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
