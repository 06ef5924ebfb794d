"""A user's own op: shape, parameters and FLOPs of a module class, as functions."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import operator
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from archrank.grammar import ops
from archrank.grammar.errors import OpError, SpaceError, shortened
from archrank.grammar.signatures import Argument, Op, Shape, Value

Class = TypeVar("Class", bound=type)
_classes: dict[str, type] = {}


def op(
    name: str,
    *,
    shape: Callable[..., Shape | None],
    params: Callable[..., int],
    flops: Callable[..., int],
) -> Callable[[Class], Class]:
    """Makes a torch module class an op of grammars that are read afterwards: its alias there is `name`.

        @ar.op(
            "gated",
            shape=lambda s, w: s,
            params=lambda s, w: 3 * s[-1] * w,
            flops=lambda s, w: 6 * s[0] * s[-1] * w,
        )
        class Gated(torch.nn.Module):
            def __init__(self, shape, width): …

    shape, params, flops: functions of the input's shape s (without the batch) and the sentence's arguments, each a
    whole number or a word. `shape` gives the output's shape, or None where the input does not fit; `params` the number
    of weights; `flops` 2 × multiply-adds at batch 1. The module is built as `Class(s, *arguments)` and maps one tensor
    (batch, *s) to (batch, *shape(s)). Raises ValueError where the name cannot be an alias, is taken by a shipped op, or
    the functions take different arguments.
    """
    if not isinstance(name, str) or not name.isascii() or not name.isidentifier() or name != name.lower():
        raise ValueError(
            f"ar.op({shortened(repr(name))}): a name is an alias: small letters, digits and _, as in gated_mlp"
        )
    counts = {what: _arguments(name, what, of) for what, of in (("shape", shape), ("params", params), ("flops", flops))}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{what} takes {count}" for what, count in counts.items())
        raise ValueError(f"ar.op({name!r}): its functions take the input's shape and the same arguments, but {said}")
    made = _User(name, shape, params, flops)
    ops.register(Op(name=name, arguments=counts["shape"], infer=made.infer, params=made.params, flops=made.flops))

    def keep(module: Class) -> Class:
        _classes[name] = module
        return module

    return keep


def module_class(name: str) -> type | None:
    """The class that builds a user's op; None where there is none."""
    return _classes.get(name)


def load_file(path: str | Path) -> None:
    """Runs a user's file, which registers ops by `ar.op`.

    Raises SpaceError with the file's line for whatever goes wrong in it, and where it registers nothing.
    """
    file = Path(path)
    if not file.is_file():
        raise SpaceError(str(path), 1, 1, "no such file; --ops takes a Python file that registers ops with ar.op")
    name = f"archrank_ops_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise SpaceError(str(path), 1, 1, "not a Python file: its name ends in .py")
    before = set(_classes)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise SpaceError(str(path), error.lineno or 1, error.offset or 1, f"not Python: {error.msg}") from None
    except Exception as error:  # a stranger's file: whatever it raises is told with its place
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
        raise SpaceError(str(path), (lines or [1])[-1] or 1, 1, f"{type(error).__name__}: {error}") from error
    if not any(cls.__module__ == name for cls in _classes.values()) and set(_classes) == before:
        raise SpaceError(str(path), 1, 1, "registers no op: decorate a torch.nn.Module class with @ar.op(…)")


def _arguments(name: str, what: str, function: Callable[..., object]) -> int:
    """How many arguments a function takes behind the shape."""
    parameters = inspect.signature(function).parameters.values()
    kinds = {p.kind for p in parameters}
    if not kinds <= {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD} or not parameters:
        raise ValueError(f"ar.op({name!r}): {what} takes the input's shape and the arguments by position, one each")
    return len(parameters) - 1


class _User:
    """The three functions, with what they give checked."""

    def __init__(
        self,
        name: str,
        shape: Callable[..., Shape | None],
        params: Callable[..., int],
        flops: Callable[..., int],
    ) -> None:
        self._name, self._shape, self._params, self._flops = name, shape, params, flops

    def infer(self, value: Value, *arguments: Argument) -> Value | None:
        """The output's shape; the grid that an image was cut by stays."""
        found = self._told("shape", self._shape, value.shape, arguments)
        if found is None:
            return None
        try:
            out = tuple(operator.index(n) for n in found)  # type: ignore[attr-defined]
        except TypeError:
            out = ()
        if not out or min(out) < 1:
            raise OpError(
                f"op {self._name}: shape{_call(value.shape, arguments)} gives {found!r}; a tuple of whole "
                "numbers above 0 is needed, or None where the input does not fit"
            )
        return Value(out, value.grid)

    def params(self, shape: Shape, *arguments: Argument) -> int:
        """The number of weights."""
        return self._count("params", self._params, shape, arguments)

    def flops(self, shape: Shape, *arguments: Argument) -> int:
        """2 × multiply-adds at batch 1."""
        return self._count("flops", self._flops, shape, arguments)

    def _count(self, what: str, of: Callable[..., int], shape: Shape, arguments: tuple[Argument, ...]) -> int:
        found = self._told(what, of, shape, arguments)
        try:
            count = operator.index(found)  # type: ignore[arg-type]
        except TypeError:
            count = -1
        if count < 0:
            raise OpError(
                f"op {self._name}: {what}{_call(shape, arguments)} gives {found!r}; a whole number from 0 is needed"
            )
        return int(count)

    def _told(self, what: str, of: Callable[..., object], shape: Shape, arguments: tuple[Argument, ...]) -> object:
        try:
            return of(shape, *arguments)
        except Exception as error:  # a stranger's function: whatever it raises is told with what it was given
            said = f"{type(error).__name__}: {error}"
            raise OpError(f"op {self._name}: {what}{_call(shape, arguments)} raises {said}") from error


def _call(shape: Shape, arguments: tuple[Argument, ...]) -> str:
    return f"({', '.join(map(repr, (shape, *arguments)))})"
