"""Trials in TensorBoard, MLflow and Weights & Biases: what they are told, and a tool that fails or is missing."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import archrank as ar
from archrank import grammar
from archrank.search import reporting
from archrank.search.cli import main
from archrank.search.config import ConfigError
from archrank.search.results import Run

SPACE = 'start: NUMBER\nNUMBER: "1" | "2" | "3" | "4" | "8"\n'


def search(kind: str, **more: Any) -> Run:
    def evaluate(d: grammar.Derivation) -> dict[str, float]:
        return {"error": 1 / int(d.text) if d.text != "8" else float("nan")}

    space = grammar.loads(SPACE)
    return ar.optimize(space, evaluate, ["error:min"], strategy="random", trials=5, report_to=kind, **more)


class Fake:
    """A module of the tool that keeps what it was called with."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.fails_at = fails_at

    def rows(self, name: str) -> list[Any]:
        return [what for called, what in self.calls if called == name]

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            self.calls.append((name, (*args, *more.values())))
            if name in ("log", "log_metrics") and len(self.rows(name)) == self.fails_at:
                raise ConnectionError("the server is away\nand more lines")
            return SimpleNamespace(log=self.log, finish=self.finish) if name == "init" else None

        return call


@pytest.fixture
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """In place of mlflow and wandb."""
    made = Fake(getattr(request, "param", None))
    monkeypatch.setattr(reporting, "import_module", lambda name: made)
    monkeypatch.setattr(reporting, "find_spec", lambda name: object())
    return made


def finished(run: Run) -> dict[int, float]:
    return {t.id: t.values["error"] for t in run.trials if t.state == "done"}


def test_mlflow(fake: Fake) -> None:
    run = search("mlflow")
    assert fake.calls[0] == ("set_experiment", ("archrank",))
    assert fake.rows("log_params")[0][0]["strategy"] == "random"
    assert {step: values["inherited/error"] for values, step in fake.rows("log_metrics")} == finished(run)
    assert fake.calls[-1] == ("end_run", ())


def test_wandb(fake: Fake, tmp_path: Path) -> None:
    run = search("wandb", out=tmp_path / "r")
    assert fake.rows("init")[0][0] == "archrank"
    assert str(tmp_path / "r") in fake.rows("init")[0]
    assert {row["trial"]: row["inherited/error"] for (row,) in fake.rows("log")} == finished(run)
    assert fake.calls[-1] == ("finish", ())


@pytest.mark.parametrize("fake", [2], indirect=True)
def test_a_tool_that_fails_in_the_middle(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    run = search("mlflow")
    assert len(run.trials) == 5
    assert len(fake.rows("log_metrics")) == 2
    told = capsys.readouterr().err
    assert told.count("--report-to") == 1
    assert (
        "--report-to mlflow: nothing more is reported (ConnectionError: the server is away); the search goes on" in told
    )


def test_a_tool_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reporting, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as told:
        search("wandb")
    assert str(told.value) == "--report-to wandb needs wandb: pip install wandb"
    assert main(["run", "lora_ranks", "--report-to", "tensorboard", "--out", str(tmp_path / "r")]) == 2
    assert "--report-to tensorboard needs tensorboardX: pip install tensorboardX" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
    with pytest.raises(ConfigError, match="--report-to tensorbord: must be one of none, tensorboard, mlflow, wandb"):
        search("tensorbord")


def test_none_imports_nothing() -> None:
    before = set(sys.modules)
    search("none")
    assert not {"tensorboardX", "mlflow", "wandb"} & (set(sys.modules) - before)


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    """{(name, step): value} of TensorBoard's event files, read as they are written: length, crc, event, crc."""
    event: ModuleType = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = {}
    for file in folder.glob("events*"):
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            told = event.Event.FromString(data[12 : 12 + size])
            found |= {(v.tag, told.step): v.simple_value for v in told.summary.value if v.HasField("simple_value")}
            data = data[16 + size :]
    return found


def test_tensorboard_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    run = search("tensorboard", out=tmp_path / "r")
    expected = {("inherited/error", number): value for number, value in finished(run).items()}
    assert scalars(tmp_path / "r" / "tensorboard") == pytest.approx(expected, rel=1e-6)
