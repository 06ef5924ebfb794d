"""Times the networks of this folder, made by `search calibrate --export`: needs torch or onnxruntime, nothing else.

    python measure.py                          (torch where it is installed, else onnxruntime)
    python measure.py --with onnxruntime --device cpu --threads 4 --out measured.csv

Each network runs alone on random weights: twice unmeasured, then seven times as many calls as fill 20 ms, of which the
median counts. On a GPU torch is timed by CUDA events, onnxruntime by the clock with its inputs on the device. One row a
network is written as soon as it is known; run again, the script goes on where it was. Bring the CSV back:
`search calibrate … --csv measured.csv`.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
COLUMNS = ("text", "latency_ms", "spread", "batch", "dtype", "stack", "device")
REPEATS = 7
LEAST_SECONDS = 0.02
MOST_CALLS = 2000
BFLOAT16 = 16
"""Its number among ONNX's types."""


def timed(once: Callable[[int], float], repeats: int = REPEATS) -> list[float]:
    """Ms of one call, `repeats` times; `once(calls)` gives the mean ms of that many."""
    once(2)
    calls = max(1, min(MOST_CALLS, int(LEAST_SECONDS / max(once(1) * 1e-3, 1e-7))))
    return [once(calls) for _ in range(repeats)]


def by_clock(work: Callable[[], object]) -> Callable[[int], float]:
    """The clock of the host around calls that return when they are done."""

    def once(calls: int) -> float:
        begun = time.perf_counter()
        for _ in range(calls):
            work()
        return 1e3 * (time.perf_counter() - begun) / calls

    return once


def by_events(work: Callable[[], object], device: Any) -> Callable[[int], float]:
    """CUDA events around calls that return before they are done."""
    import torch

    def once(calls: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(device)
        start.record()
        for _ in range(calls):
            work()
        end.record()
        torch.cuda.synchronize(device)
        return float(start.elapsed_time(end)) / calls

    return once


def processor() -> str:
    """What the CPU calls itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def set_precision(dtype: str) -> None:
    """fp32 is computed in fp32 and tf32 in tf32: by default cuDNN takes tf32 for fp32 convolutions."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype == "tf32"


class Torch:
    """Eager torch: the Python modules of the folder."""

    suffix = ".py"
    refusals: tuple[type[Exception], ...] = (OSError, RuntimeError, ValueError, TypeError, AttributeError, MemoryError)

    def __init__(self, kit: dict[str, Any], device: str | None, threads: int | None) -> None:
        import torch

        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if threads:
            torch.set_num_threads(threads)
        set_precision(kit["dtype"])
        on = f", {torch.get_num_threads()} thread(s)" if self.device.type == "cpu" else f", CUDA {torch.version.cuda}"
        self.stack = f"eager torch {torch.__version__}{on}"
        self.chip = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else processor()

    def times(self, file: Path, inputs: list[dict[str, Any]]) -> list[float]:
        """Ms of one network, each repeat."""
        import torch

        spec = importlib.util.spec_from_file_location(file.stem, file)
        if spec is None or spec.loader is None:
            raise OSError(f"{file} is no Python module")
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        network = module.build(self.device)
        given = [self._input(i) for i in inputs]
        with torch.inference_mode():
            if self.device.type == "cuda":
                return timed(by_events(lambda: network(*given), self.device))
            return timed(by_clock(lambda: network(*given)))

    def _input(self, told: dict[str, Any]) -> Any:
        import torch

        dtype = getattr(torch, told["dtype"])
        if told["fill"] is None:
            return torch.randn(told["shape"], generator=torch.Generator().manual_seed(0)).to(self.device, dtype)
        return torch.full(told["shape"], told["fill"], dtype=dtype, device=self.device)


class OnnxRuntime:
    """onnxruntime: the ONNX files of the folder."""

    suffix = ".onnx"

    def __init__(self, kit: dict[str, Any], device: str | None, threads: int | None) -> None:
        import onnxruntime  # type: ignore[import-not-found,import-untyped,unused-ignore]

        has = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        self.kind = (device or ("cuda" if has else "cpu")).split(":")[0]
        if self.kind == "cuda" and not has:
            raise OSError("this onnxruntime has no CUDA: install onnxruntime-gpu, or pass --device cpu")
        raised = vars(onnxruntime.capi.onnxruntime_pybind11_state).values()  # its errors share no class
        own = tuple(e for e in raised if isinstance(e, type) and issubclass(e, Exception))
        self.refusals: tuple[type[Exception], ...] = (*own, OSError, RuntimeError, ValueError, TypeError, MemoryError)
        self.options = onnxruntime.SessionOptions()
        self.options.log_severity_level = 3
        if threads:
            self.options.intra_op_num_threads = threads
        on = "CUDA" if self.kind == "cuda" else f"{threads or 'default'} thread(s)"
        self.stack = f"onnxruntime {onnxruntime.__version__}, {on}"
        self.chip = self.kind if self.kind == "cuda" else processor()

    def times(self, file: Path, inputs: list[dict[str, Any]]) -> list[float]:
        """Ms of one network, each repeat."""
        import onnxruntime

        provider = "CUDAExecutionProvider" if self.kind == "cuda" else "CPUExecutionProvider"
        session = onnxruntime.InferenceSession(str(file), self.options, providers=[provider])
        binding = session.io_binding()
        for slot, told in zip(session.get_inputs(), inputs, strict=True):
            binding.bind_ortvalue_input(slot.name, self._input(told))
        for slot in session.get_outputs():
            binding.bind_output(slot.name, self.kind)

        def work() -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return timed(by_clock(work))

    def _input(self, told: dict[str, Any]) -> Any:
        import numpy
        import onnxruntime

        if told["fill"] is None:
            values = numpy.random.default_rng(0).standard_normal(told["shape"], dtype=numpy.float32)
            if told["dtype"] == "bfloat16":  # the upper half of a float; numpy has no such type
                bits = (values.view(numpy.uint32) >> 16).astype(numpy.uint16)
                return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, BFLOAT16)
            return onnxruntime.OrtValue.ortvalue_from_numpy(values.astype(told["dtype"]), self.kind, 0)
        whole = numpy.full(told["shape"], told["fill"], dtype=told["dtype"])
        return onnxruntime.OrtValue.ortvalue_from_numpy(whole, self.kind, 0)


def known(out: Path) -> list[dict[str, str]]:
    """Rows of an earlier call."""
    if not out.exists():
        return []
    with out.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def runtime(kit: dict[str, Any], args: argparse.Namespace) -> Torch | OnnxRuntime:
    """What --with names, else torch where it is installed."""
    name = args.runtime or ("torch" if importlib.util.find_spec("torch") else "onnxruntime")
    if importlib.util.find_spec(name) is None:
        raise OSError(f"{name} is not installed: pip install {name}")
    return (Torch if name == "torch" else OnnxRuntime)(kit, args.device, args.threads)


def main(argv: list[str] | None = None) -> int:
    """Writes the CSV; 1 where no network could be timed, 2 where the folder or the runtime is not usable."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--with", dest="runtime", choices=("torch", "onnxruntime"), help="default: torch where it is")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    parser.add_argument("--threads", type=int, help="of the CPU (default: what the library takes)")
    parser.add_argument(
        "--out", type=Path, default=HERE / "measured.csv", help="default: measured.csv beside this file"
    )
    args = parser.parse_args(argv)
    try:
        kit = json.loads((HERE / "kit.json").read_text(encoding="utf-8"))
        run = runtime(kit, args)
        rows = known(args.out)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"measure.py: {error}", file=sys.stderr)
        return 2
    other = [row for row in rows if row.get("stack") != run.stack or row.get("batch") != str(kit["batch"])]
    if other:
        print(f"measure.py: {args.out} holds times of {other[0].get('stack')}: give another --out", file=sys.stderr)
        return 2
    done = {row["text"] for row in rows}
    for number, each in enumerate(kit["networks"], start=1):
        if each["text"] in done:
            continue
        file = HERE / f"{each['name']}{run.suffix}"
        try:
            if not file.exists():
                raise OSError("the kit has no such file: this network could not be written in this form")
            ms = sorted(run.times(file, each["inputs"]))
        except run.refusals as error:  # the others count without this one
            print(f"measure.py: {file.name} left out: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        middle = ms[len(ms) // 2]
        row = (each["text"], middle, (ms[-1] - ms[0]) / middle, kit["batch"], kit["dtype"], run.stack, run.chip)
        append(args.out, row)
        done.add(each["text"])
        print(f"{number}/{len(kit['networks'])} {each['name']} {middle:.4g} ms", file=sys.stderr, flush=True)
    print(args.out if done else "measure.py: no network could be timed", file=sys.stdout if done else sys.stderr)
    return 0 if done else 1


def append(out: Path, row: tuple[object, ...]) -> None:
    """One line, after the header."""
    fresh = not out.exists()
    with out.open("a", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        if fresh:
            table.writerow(COLUMNS)
        table.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in row])


if __name__ == "__main__":
    sys.exit(main())
