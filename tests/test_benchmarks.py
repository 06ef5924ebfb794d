"""Benchmarks are run by hand, and rarely: here it is checked that what they import and call is still there."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
NAMES = sorted(p.stem for p in FOLDER.glob("*.py"))
OPTIONAL = {"onnx", "onnxruntime", "onnxscript", "pymoo", "ray", "smac", "triton"}
"""What a benchmark may import that an installation can be without."""
OWN = {"archrank", *NAMES}


@pytest.fixture(scope="module", autouse=True)
def on_path() -> Iterator[None]:
    """As `python benchmarks/x.py` has it; what is imported under these short names is forgotten afterwards."""
    path, before = list(sys.path), {name: sys.modules.pop(name, None) for name in NAMES}
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path[:] = path
    for name, module in before.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


def imported(name: str) -> ModuleType:
    """The module; the test is skipped where it needs a package that is optional and absent."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in OPTIONAL:
            raise
        pytest.skip(f"{name} needs {missing}, which is not installed")


def source(name: str) -> str:
    return (FOLDER / f"{name}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_what_it_imports_is_there(name: str) -> None:
    """Also what a function imports when it is called."""
    imported(name)
    gone = []
    for node in ast.walk(ast.parse(source(name))):
        if not isinstance(node, ast.ImportFrom) or (node.module or "").partition(".")[0] not in OWN:
            continue
        module = imported(str(node.module))
        gone += [f"{node.module}.{a.name}" for a in node.names if not _has(module, a.name)]
    assert gone == []


def test_make_bench_runs_benchmarks_that_there_are() -> None:
    text = (FOLDER.parent / "Makefile").read_text(encoding="utf-8")
    names = text.partition("BENCHES := ")[2].partition("\n\n")[0].replace("\\", " ").split()
    assert names
    assert set(names) <= set(NAMES)
    assert all('"--out"' in source(name) or "arguments(__doc__)" in source(name) for name in names)


@pytest.mark.parametrize("script", sorted(p.name for p in FOLDER.glob("*.sh")))
def test_scripts_name_benchmarks_and_methods_that_there_are(script: str) -> None:
    text = (FOLDER / script).read_text(encoding="utf-8")
    assert set(re.findall(r"benchmarks/(\w+)\.py", text)) <= set(NAMES)
    for given in re.findall(r"rank_quality\.py.*(?:\\\n.*)*?--methods (\S+)", text):
        assert set(given.split(",")) <= set(imported("rank_quality").METHODS)


def _has(module: ModuleType, name: str) -> bool:
    """Whether it is an attribute or a submodule."""
    if hasattr(module, name):
        return True
    try:
        import_module(f"{module.__name__}.{name}")
    except ModuleNotFoundError:
        return False
    return True


def _parses(name: str) -> bool:
    return "    main()" in source(name)


@pytest.mark.parametrize("name", [name for name in NAMES if _parses(name)])
def test_it_says_what_its_flags_are(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = imported(name)
    monkeypatch.setattr(sys, "argv", [f"benchmarks/{name}.py", "--help"])
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as done:
        module.main()
    told = capsys.readouterr().out
    assert done.value.code == 0
    assert f"usage: {name}.py" in told
    assert (module.__doc__ or "").splitlines()[0] in told
