"""The wheels that benchmarks/gpu.sh brings to a machine that has torch and triton and may have no network.

    python benchmarks/pack_wheels.py [--out benchmarks/wheels]

Downloads, for this platform, what archrank needs and its GPU tests and benchmarks use, at the versions installed here;
torch, triton and what only they need are the machine's own.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

TESTS = ("pytest", "pytest-timeout")
OWN = re.compile(r"(torch|triton|nvidia-.*|cuda-.*|setuptools)$")


def asked() -> list[str]:
    """What pyproject.toml and the GPU tests ask for."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *TESTS]


def needed(requirements: list[str]) -> dict[str, str]:
    """{distribution: version} of the requirements and all that they require here, extras left out."""
    found: dict[str, str] = {}
    todo = list(requirements)
    while todo:
        plain = re.split(r"[\s\[;<>=!~(]", todo.pop(), maxsplit=1)[0]
        name = re.sub(r"[-_.]+", "-", plain).lower()
        if name in found:
            continue
        try:
            told = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # required on another platform
            continue
        found[name] = told.version
        if not OWN.match(name):
            todo += [r for r in told.requires or () if "extra ==" not in r]
    return {name: version for name, version in sorted(found.items()) if not OWN.match(name)}


def main() -> None:
    """Downloads what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/wheels"))
    out = parser.parse_args().out
    pins = [f"{name}=={version}" for name, version in needed(asked()).items()]
    call = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*call, "--dest", str(out), *pins], check=True)
    files = list(out.glob("*.whl"))
    print(f"{len(files)} wheels, {sum(f.stat().st_size for f in files) / 1e6:.0f} MB, in {out}")


if __name__ == "__main__":
    main()
