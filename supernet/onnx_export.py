"""The one way to torch.export and ONNX: traced for any number of rows, checked by onnx, answered by onnxruntime beside
torch before a file is kept.

Refusals name what cannot be exported: the torch op, and the module of the model that calls it.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from archrank.supernet.export import ExportDiffers, ExportRefused

__all__ = ["EXACT", "export_program", "onnx_answers", "write_onnx"]

EXACT = 1e-4
"""Of the largest logit: fp32 round-off of another order of additions."""
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_TORCH_OP = re.compile(r"OpOverload\(op='([\w.:]+)'")

Inputs = Mapping[str, Tensor]


def export_program(
    model: nn.Module,
    example: Inputs,
    free: Mapping[str, Sequence[int]],
    named: Callable[[str], str] = str,
    *,
    mapping: bool = False,
) -> torch.export.ExportedProgram:
    """The program of model(*example.values()), or of model(example) with `mapping`; `free` axes of any size.

    named: what a module of the model is called for people, by its path. ExportRefused names the module that
    torch.export cannot trace.
    """
    axes = {name: dict.fromkeys(free.get(name, ()), torch.export.Dim.AUTO) for name in example}
    shapes = (axes,) if mapping else tuple(axes.values())
    with _entered(model) as inside, warnings.catch_warnings(), _silent(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch warns of its own internals here
        try:
            return torch.export.export(model.eval(), _arguments(example, mapping), dynamic_shapes=shapes)
        except (RuntimeError, ValueError, TypeError, torch._dynamo.exc.TorchDynamoException) as error:
            where = f"{named(inside[-1])} " if inside and inside[-1] else ""
            raise ExportRefused(
                f"torch.export cannot trace {where}({_first_line(error)}); nothing was written"
            ) from None


def write_onnx(
    model: nn.Module,
    path: Path,
    probes: Sequence[Inputs],
    free: Mapping[str, Sequence[int]],
    named: Callable[[str], str] = str,
    *,
    mapping: bool = False,
) -> float:
    """`model` as one ONNX file, inputs by name and the output `logits`: max |Δ| in onnxruntime over `probes`.

    probes: inputs of the same names; the first is traced, and the others should differ in their free axes; named,
    mapping: as in `export_program`. A file that is there is replaced only by one that passed. ExportRefused where a
    package of the extra `onnx` is missing or an op cannot be exported (named), ExportDiffers above 1e-4 of the largest
    logit.
    """
    absent = [name for name in PACKAGES if find_spec(name) is None]
    if absent:
        raise ExportRefused(f"ONNX export needs {' and '.join(absent)}: pip install {' '.join(PACKAGES)}")
    import onnx

    program = export_program(model, probes[0], free, named, mapping=mapping)
    with warnings.catch_warnings(), _silent():
        warnings.simplefilter("ignore")
        try:
            made = torch.onnx.export(
                program, input_names=list(probes[0]), output_names=["logits"], dynamo=True, verbose=False
            )
        except (RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
            raise ExportRefused(f"ONNX: {_refused(program, error, named)}; nothing was written") from None
    assert made is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    try:
        made.save(str(fresh))
        try:
            onnx.checker.check_model(str(fresh), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ExportRefused(f"ONNX: the file is not valid ({_first_line(error)}); nothing was kept") from None
        with torch.no_grad():
            truth = [model(*_arguments(probe, mapping)) for probe in probes]
        difference = compare(onnx_answers(fresh, probes), truth, "onnx")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    return difference


def _arguments(inputs: Inputs, mapping: bool) -> tuple[object, ...]:
    return (dict(inputs),) if mapping else tuple(inputs.values())


def onnx_answers(path: Path, probes: Sequence[Inputs]) -> list[Tensor]:
    """What onnxruntime answers to each, on the CPU; inputs that the graph does not read are left out."""
    import onnxruntime  # type: ignore[import-not-found,import-untyped,unused-ignore]

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = [i.name for i in session.get_inputs()]
    return [torch.as_tensor(session.run(None, {n: probe[n].cpu().numpy() for n in wanted})[0]) for probe in probes]


def compare(answers: Sequence[Tensor], truth: Sequence[Tensor], form: str) -> float:
    """Max |Δ logit|; ExportDiffers above 1e-4 of the largest logit."""
    largest = max(1.0, *(float(t.abs().max()) for t in truth))
    difference = max(float((a.cpu() - t.cpu()).abs().max()) for a, t in zip(answers, truth, strict=True))
    if not difference <= EXACT * largest:
        raise ExportDiffers(
            f"the {form} file answers otherwise by {difference:.2e} (allowed {EXACT * largest:.2e}); nothing was kept"
        )
    return difference


def _refused(program: torch.export.ExportedProgram, error: BaseException, named: Callable[[str], str]) -> str:
    """The torch ops that the exporter does not know, each with the module that calls it."""
    ops = dict.fromkeys(_TORCH_OP.findall(f"{error} {error.__cause__}"))
    found = []
    for op in ops:
        callers = [
            next(reversed(stack.values()))[0]
            for node in program.run_decompositions().graph.nodes
            if str(node.target).rpartition(".")[0] == op and (stack := node.meta.get("nn_module_stack"))
        ]
        where = f" of {named(callers[0])}" if callers and callers[0] else ""
        found.append(f"no form of {op}{where}")
    return ", ".join(found) or _first_line(error)


@contextmanager
def _entered(model: nn.Module) -> Iterator[list[str]]:
    """The paths of the modules of which a call has begun and not ended."""
    inside: list[str] = []
    handles: list[RemovableHandle] = []

    def enter(name: str) -> Callable[[nn.Module, object], None]:
        return lambda module, args: inside.append(name)

    def leave(module: nn.Module, args: object, output: object) -> None:
        inside.pop()

    for name, module in model.named_modules():
        handles += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave)]
    try:
        yield inside
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _silent() -> Iterator[None]:
    """Without the exporter's notes on packages that are not installed, and the graphs that torch prints of what it
    cannot trace.
    """
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.fx", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
