"""The wheel: one name, data files in it, no top-level package that would overwrite another's, and it starts."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOREIGN = "kernels"  # Hugging Face's package of the name that a flat layout would have taken


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist, so that the sdist is whole too."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)],
        check=True,
        capture_output=True,
        text=True,
    )
    [found] = out.glob("*.whl")
    return found


def test_everything_lies_under_archrank(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names} == {"archrank", next(n for n in names if ".dist-info" in n).split("/")[0]}
    for wanted in (
        "archrank/__init__.py",
        "archrank/py.typed",
        "archrank/spaces/lora_ranks.lark",
        "archrank/spaces/sentences/einspace/resnet18.txt",
        "archrank/predictors/devices/a100-80gb-sxm.toml",
        "archrank/supernet/bases/digits_vit/model.safetensors",
        "archrank/supernet/bases/digits_vit/config.json",
        "archrank/search/report/page.html",
        "archrank/search/cli/run.py",
        "archrank/grammar/ops/lora.py",
    ):
        assert wanted in names
    assert not [n for n in names if "tests/" in n or n.endswith(".pyc")]
    assert wheel.stat().st_size < 2_000_000


def test_it_starts_beside_a_foreign_kernels_package(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own; dependencies come from this one, so that nothing is downloaded."""
    home = tmp_path / "env"
    venv.create(home, with_pip=False, symlinks=True)
    [site] = (home / "lib").glob("python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    (site / FOREIGN).mkdir()
    (site / FOREIGN / "__init__.py").write_text("def get_kernel():\n    return 'theirs'\n")
    here = next(p for p in sys.path if p.endswith("site-packages"))
    (site / "borrowed.pth").write_text(here + "\n")
    program = (
        "import archrank, kernels, archrank.kernels\n"
        "from archrank import spaces, predictors\n"
        "assert kernels.get_kernel() == 'theirs'\n"
        "spaces.load('lora_ranks'), predictors.load('a100')\n"
        "from archrank.search.cli import main\n"
        "print(archrank.__file__)\n"
        "main(['list', 'spaces'])\n"
        "try:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert not stop.code\n"
    )
    done = subprocess.run(
        [str(home / "bin" / "python"), "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert str(site) in done.stdout.splitlines()[0]
    assert "lora_ranks" in done.stdout
