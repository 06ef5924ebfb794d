"""`search compare`, `search watch`, `search report --serve`, the mirror flag: what is seen of runs from outside."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import archrank as ar
from archrank import grammar
from archrank.search.cli import main
from archrank.search.config import ConfigError
from archrank.search.serving_report import server

TEXT = 'start: site site\nsite: "r" RANK -> site\nRANK: "1" | "2" | "4" | "8"\n'


def evaluate(d):
    a, b = (int(c) for c in d.text if c.isdigit())
    return {"error": 1 / (1 + a + 2 * b), "ms": a + b}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("runs")
    for i, (strategy, seed, n) in enumerate([("random", 0, 6), ("random", 1, 8), ("nsga2", 0, 16)]):
        ar.optimize(
            grammar.loads(TEXT), evaluate, ["error:min", "ms:min"], strategy, trials=n, seed=seed, out=root / str(i)
        )
    ar.optimize(grammar.loads(TEXT), evaluate, ["ms:min"], "random", trials=2, out=root / "other")
    return [str(root / str(i)) for i in range(3)] + [str(root / "other")]


def test_compare(folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *folders[:3], "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(r["strategy"], r["seed"], r["trials"]) for r in rows] == [
        ("random", 0, 6),
        ("random", 1, 8),
        ("nsga2", 0, 16),
    ]
    assert rows[2]["hypervolume"] == max(r["hypervolume"] for r in rows) > 0  # it saw the whole space
    assert rows[2]["best"] == {"error": 1 / 25, "ms": 2.0}
    assert main(["compare", *folders[:3], "--out", str(tmp_path / "c.html")]) == 0
    out = capsys.readouterr().out
    assert ", random: hypervolume" in out
    assert "over 2 runs after 6 evaluations" in out
    assert "<h1>3 runs of &lt;text&gt;</h1>" in (tmp_path / "c.html").read_text()
    assert main(["compare", folders[0], folders[3]]) == 2
    assert "only runs with the same objectives can be compared" in capsys.readouterr().err


def test_watch(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", folders[2]]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("16/16 trials · best error 0.04 · front ")
    assert first.endswith(" · ended")
    assert rest
    assert main(["watch", folders[2], "--every", "0"]) == 2


def test_serve(folders: list[str]) -> None:
    with server(folders[0], 0) as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        base = f"http://127.0.0.1:{found.server_address[1]}"
        with urllib.request.urlopen(base + "/", timeout=20) as answer:
            assert "<title>" in answer.read().decode()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(base + "/../config.toml", timeout=20)
        with pytest.raises(ConfigError, match=r"--port \d+: cannot be served on"):
            server(folders[0], found.server_address[1])
        found.shutdown()
        thread.join()
