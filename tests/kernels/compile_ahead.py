"""Compiles every Triton kernel for a GPU that is not there and prints what each needs, as JSON.

    python compile_ahead.py 80 90

A process of its own: a kernel that was decorated under TRITON_INTERPRET=1 cannot be compiled. For each kernel in bf16
and each target: registers a thread, bytes of stack (spills), bytes of shared memory, and how many tensor-core (HMMA,
HGMMA) and narrow global-load (LDG.U16) instructions its machine code has.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from archrank.kernels.backend import LAUNCHES, Launch
from archrank.kernels.triton_ops import gated_lora, grouped_choice_linear, walsh_hadamard

RANKS = (16, 64, 128)


def launch(op: str, target: int) -> Launch:
    """What a device of that kind would run with."""
    return LAUNCHES.get(f"sm_{target}", {}).get(op) or LAUNCHES["cuda"][op]


def sources(dtype: str, target: int) -> dict[str, tuple[object, dict[str, str], dict[str, int], Launch, int]]:
    """{name: (kernel, signature, constants, launch, stages)}; aligned pointers and sizes, as large inputs have them."""
    t, found = f"*{dtype}", {}
    for rank in RANKS:
        one, two = launch("gated_shrink", target), launch("gated_backward", target)
        found[f"gated_shrink r{rank}"] = (
            gated_lora.shrink_kernel,
            {"x": t, "A": t, "G": "*fp32", "row": "*i64", "h": t, "gated": t}
            | dict.fromkeys(["M", "K", "R", "x_m", "x_k", "A_r", "A_k", "G_p", "G_r"], "i32"),
            {"x_k": 1, "A_k": 1, "G_r": 1, "BM": one.m, "BK": one.k, "BR": rank},
            one,
            one.stages,
        )
        found[f"gated_backward r{rank}"] = (
            gated_lora.backward_kernel,
            {"dy": t, "B": t, "G": "*fp32", "row": "*i64", "h": t, "dh": t, "weighed": "*fp32", "planes": "*fp32"}
            | dict.fromkeys(["M", "N", "R", "blocks", "B_n", "B_r", "G_p", "G_r"], "i32"),
            {"B_r": 1, "G_r": 1, "BM": two.m, "BN": two.n, "BR": rank},
            two,
            two.stages,
        )
    one = launch("grouped_choice_linear", target)
    found["grouped_choice_linear"] = (
        grouped_choice_linear.product_kernel,
        {"x": t, "W": t, "choice": "*i64", "y": t}
        | dict.fromkeys(["rows", "N", "K", "x_p", "x_m", "x_k", "W_c", "W_n", "W_k"], "i32"),
        {"x_k": 1, "W_k": 1, "BM": one.m, "BN": one.n, "BK": one.k},
        one,
        one.stages,
    )
    for n in (256, 4096):
        a = 1 << ((n.bit_length() - 1) // 2)
        found[f"walsh_hadamard {n}"] = (
            walsh_hadamard.transform_kernel,
            {"x": t, "y": t, "scale": "fp32"},
            {"a": a, "b": n // a},
            launch("walsh_hadamard", target),
            1,
        )
    return found


def needs(
    kernel: object, signature: dict[str, str], constants: dict[str, int], warps: int, stages: int, target: int
) -> dict[str, int]:
    """Compiles one kernel and reads its machine code."""
    names = kernel.arg_names  # type: ignore[attr-defined]
    full = {n: "constexpr" if n in constants else signature[n] for n in names}
    # what a launch finds out by itself: pointers and sizes that 16 divides
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if full[n] != "constexpr" and full[n] != "fp32"
    }
    source = ASTSource(kernel, full, {(names.index(n),): v for n, v in constants.items()}, aligned)
    compiled = triton.compile(
        source, target=GPUTarget("cuda", target, 32), options={"num_warps": warps, "num_stages": stages}
    )
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage, code = (_dump(cubin, flag) for flag in ("--dump-resource-usage", "--dump-sass"))
    return {
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),  # type: ignore[index]
        "stack_bytes": int(re.search(r"STACK:(\d+)", usage)[1]),  # type: ignore[index]
        "shared_bytes": int(compiled.metadata.shared),
        "tensor_core": len(re.findall(r"\bHG?MMA", code)),
        "narrow_loads": len(re.findall(r"LDG\.E\.U16", code)),
    }


def _dump(cubin: Path, flag: str) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run([tool, flag, cubin], capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Prints {target: {kernel: needs}}."""
    told: dict[str, dict[str, dict[str, int]]] = {}
    for target in map(int, sys.argv[1:]):
        told[f"sm_{target}"] = {
            name: needs(kernel, signature, constants, tiles.warps, stages, target)
            for name, (kernel, signature, constants, tiles, stages) in sources("bf16", target).items()
        }
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
