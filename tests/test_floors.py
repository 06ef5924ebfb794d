"""The house's floors: who may import whom, no circle, nothing heavy before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "search": {"grammar", "supernet", "predictors", "kernels", "spaces"},
    "supernet": {"grammar", "kernels"},
    "predictors": {"grammar"},
    "spaces": {"grammar"},
    "grammar": set(),
    "kernels": set(),
}
NO_TORCH = {"grammar", "spaces", "predictors"}


def files() -> Iterator[tuple[str, Path]]:
    for package in MAY_IMPORT:
        yield from ((package, file) for file in sorted((ROOT / package).rglob("*.py")))


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative import"
            module = node.module or ""
            yield module
            if module == "archrank":
                yield from (f"archrank.{alias.name}" for alias in node.names)


def test_every_import_keeps_its_floor() -> None:
    wrong = []
    for package, file in files():
        for name in imported(file):
            parts = name.split(".")
            ours = parts[0] == "archrank" and len(parts) > 1 and parts[1] in MAY_IMPORT
            if ours and parts[1] not in {package, *MAY_IMPORT[package]}:
                wrong.append(f"{file.relative_to(ROOT)} imports {name}")
            if package in NO_TORCH and parts[0] in ("torch", "transformers", "peft", "ray"):
                wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_the_floors_hold_no_circle() -> None:
    order = ["grammar", "kernels", "spaces", "predictors", "supernet", "search"]
    assert all(
        order.index(below) < order.index(package) for package, allowed in MAY_IMPORT.items() for below in allowed
    )


HEAVY = ("torch", "transformers", "optuna", "plotly", "ray", "peft", "datasets", "pandas", "sklearn", "scipy")


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import archrank", HEAVY),
        ("import archrank.kernels", HEAVY),
        ("import archrank.supernet", HEAVY),
        ("import archrank.search", HEAVY),
        ("from archrank.search.cli import build_parser; build_parser()", HEAVY),
        ("from archrank import grammar, spaces, predictors; predictors.load('a100')", ("torch", "transformers")),
        (
            "from archrank.search import strategies, study; strategies.load('nsga2')",
            ("torch", "optuna", "plotly", "ray"),
        ),
    ],
)
def test_nothing_heavy_is_loaded_early(code: str, heavy: tuple[str, ...]) -> None:
    program = f"{code}\nimport sys\nprint(sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_is_evaluated_unpickled_or_swallowed() -> None:
    wrong = []
    for _, file in files():
        for node in ast.walk(ast.parse(file.read_text())):
            where = f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
                wrong.append(f"{where} {node.func.id}")
            if isinstance(node, ast.ExceptHandler):
                broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
                if broad and all(isinstance(b, ast.Pass | ast.Continue) for b in node.body):
                    wrong.append(f"{where} swallows every error")
        wrong += [
            f"{file.relative_to(ROOT)} imports {n}"
            for n in imported(file)
            if n.split(".")[0] in ("pickle", "dill", "cloudpickle")
        ]
    assert not wrong
