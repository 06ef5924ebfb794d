"""Kits: networks that another machine can run without archrank, and the table that comes back."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from archrank import grammar, predictors, supernet
from archrank.search.binding import bound_space
from archrank.search.cli import main
from archrank.search.errors import ExportError
from archrank.search.kits import measure, onnx_files, source
from archrank.search.servable import servable

FLAGS = ["--hw", "cpu", "--serve-dtype", "fp32", "--serve-batch", "2"]


def loaded(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["nasbench201", "einspace", "mobilenetv3", "elastic_encoder"])
def test_the_python_file_is_the_network(name: str, tmp_path: Path) -> None:
    space = bound_space(grammar.load(name), base=None, target_modules=None)
    served = servable(space, 2)
    (d,) = space.sample(np.random.default_rng(3), n=1)
    network = served.network(d.text, torch.float32)
    inputs = list(served.inputs(d.text, torch.float32).values())
    program = source.exported(network, inputs)
    file = tmp_path / "network.py"
    file.write_text(source.source(program, name), encoding="utf-8")
    text = file.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith(("import", "from"))] == ["import torch"]
    assert "archrank" not in text
    again = loaded(file).build()
    for mine, theirs in zip(again.parameters(), network.parameters(), strict=True):
        mine.copy_(theirs.detach())
    theirs_held = [held for held in network.buffers() if held.is_floating_point()]
    for mine, theirs in zip((b for b in again.buffers() if b.is_floating_point()), theirs_held, strict=True):
        mine.copy_(theirs)
    with torch.no_grad():
        assert torch.allclose(again(*inputs), network(*inputs), atol=1e-5, rtol=1e-3)


def test_a_decoder_in_bf16_runs_with_its_own_positions(tmp_path: Path) -> None:
    space = grammar.load("gpt2_elastic")
    arch = space.elaborate(space.sample(np.random.default_rng(0), n=1)[0])
    block = supernet.networks.op_module(arch.ops[1], (arch.ops[0].shape,)).bfloat16().eval()
    x = torch.randn(1, 16, arch.ops[0].shape[1]).bfloat16()
    (tmp_path / "block.py").write_text(source.source(source.exported(block, [x]), 'a "block"'), encoding="utf-8")
    again = loaded(tmp_path / "block.py").build()
    for mine, theirs in zip(again.parameters(), block.parameters(), strict=True):
        mine.copy_(theirs.detach())
    with torch.no_grad():
        assert torch.equal(again(x), block(x))


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kits") / "kit"
    assert main(["calibrate", "einspace", *FLAGS, "--measure", "3", "--export", str(folder), "--json"]) == 0
    return folder


@pytest.mark.parametrize("runtime", ["torch", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_there_and_back(runtime: str, kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads((kit / "kit.json").read_text(encoding="utf-8"))
    assert (told["space"], told["batch"], told["dtype"], len(told["networks"])) == ("einspace", 2, "fp32", 3)
    table, out = tmp_path / "measured.csv", tmp_path / "mine.toml"
    script = [sys.executable, "-I", str(kit / "measure.py"), "--with", runtime, "--device", "cpu", "--threads", "1"]
    script += ["--out", str(table)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [each["text"] for each in told["networks"]]
    assert all(float(row["latency_ms"]) > 0 and row["stack"].startswith(("eager torch", "onnxrun")) for row in rows)
    back = ["calibrate", "einspace", "--hw", "cpu", "--csv", str(table), "--out", str(out)]
    assert main(back) == 0
    calibration = predictors.load(out).calibration
    assert calibration is not None
    assert calibration.dtype == "fp32"
    capsys.readouterr()
    assert main([*back, "--serve-batch", "4"]) == 2
    assert "measured.csv was measured at 2. Leave --serve-batch out" in capsys.readouterr().err
    assert main([*back, "--serve-dtype", "bf16"]) == 2
    assert "was measured at fp32" in capsys.readouterr().err


def test_a_second_call_goes_on_in_the_same_table_and_in_no_other(kit: Path, tmp_path: Path) -> None:
    import onnxruntime

    texts = [each["text"] for each in json.loads((kit / "kit.json").read_text(encoding="utf-8"))["networks"]]
    table, stack = tmp_path / "measured.csv", f"onnxruntime {onnxruntime.__version__}, 1 thread(s)"
    script = [sys.executable, "-I", str(kit / "measure.py"), "--with", "onnxruntime", "--device", "cpu"]
    script += ["--threads", "1", "--out", str(table)]
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([measure.COLUMNS, *((text, 1.5, 0, 2, "fp32", stack, "") for text in texts[:2])])
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert [line.split(" ")[:2] for line in lines] == [["3/3", "network_002"]]
    table.write_text("text,latency_ms,batch,stack\nx,1,2,eager torch 1\n", "utf-8")
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "holds times of eager torch 1: give another --out" in done.stderr


def test_large_onnx_weights_lie_in_one_file(tmp_path: Path) -> None:
    import onnxruntime

    network = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.Linear(256, 128)).eval()
    weights = onnx_files.SharedWeights(tmp_path)
    onnx_files.write(source.exported(network, [torch.zeros(1, 256)]), tmp_path / "a.onnx", weights)
    weights.finish()
    assert (tmp_path / "weights.float").stat().st_size == 4 * 256 * 256
    assert (tmp_path / "a.onnx").stat().st_size < 20_000
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    (slot,) = session.get_inputs()
    (found,) = session.run(None, {slot.name: np.ones((1, 256), dtype=np.float32)})
    assert np.isfinite(found).all()
    assert found.std() > 0


def test_what_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.sum() > 0:
                return x
            return -x

    with pytest.raises(ExportError, match=r"torch\.export: "):
        source.exported(Odd(), [torch.zeros(2)])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine", encoding="utf-8")
    flags = ["calibrate", "einspace", *FLAGS, "--measure", "2", "--export"]
    assert main([*flags, str(tmp_path / "full")]) == 2
    assert "full: holds files already; give a new or empty folder" in capsys.readouterr().err
    assert main([*flags, "kit.csv"]) == 2
    assert "--export kit.csv: is a file; give the name of a new folder" in capsys.readouterr().err


def test_without_onnx_the_python_files_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_files, "PACKAGES", ("no_such_package",))
    kit = tmp_path / "kit"
    assert main(["calibrate", "einspace", *FLAGS, "--measure", "1", "--export", str(kit)]) == 0
    assert "left out: no ONNX files: no_such_package missing (pip install no_such_package)" in capsys.readouterr().err
    assert (kit / "network_000.py").exists()
    assert not list(kit.glob("*.onnx"))


def test_the_script_says_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert measure.main(["--out", str(tmp_path / "x.csv")]) == 2
    assert "kit.json" in capsys.readouterr().err


def test_rows_of_two_batches_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "in.csv"
    table.write_text("text,latency_ms,batch\na,1,2\nb,1,4\n", "utf-8")
    assert main(["calibrate", "einspace", "--hw", "cpu", "--csv", str(table), "--out", str(tmp_path / "x.toml")]) == 2
    assert "in.csv: batch is 2 and 4 in different rows: fit one" in capsys.readouterr().err
    table.write_text("text,latency_ms,batch\na,1,many\n", "utf-8")
    assert main(["calibrate", "einspace", "--hw", "cpu", "--csv", str(table), "--out", str(tmp_path / "x.toml")]) == 2
    assert "batch = 'many', but it is a whole number of at least 1" in capsys.readouterr().err
