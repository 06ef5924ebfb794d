"""Triton's interpreter for the tests that ask for it, with products of bf16 mended."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch

from archrank.kernels import backend


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ops run their Triton kernels as Python on CPU tensors; skipped where there is no Triton.

    The interpreter keeps bf16 as the bits of a uint16 and multiplies those: every version tried gives garbage for a
    product, without a word. Its operands are widened here; kernels themselves cast to fp32 before any other
    arithmetic.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("TRITON_INTERPRET=1 was not set when the tests began")
    pytest.importorskip("triton")
    monkeypatch.setenv("ARCHRANK_KERNELS", "")
    from triton.runtime import interpreter as triton_interpreter

    plain = triton_interpreter.InterpreterBuilder.create_dot

    def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        return plain(self, _widened(a), _widened(b), d, *rest)

    monkeypatch.setattr(triton_interpreter.InterpreterBuilder, "create_dot", create_dot)
    monkeypatch.setitem(backend.DTYPES, "cpu", (*backend.DTYPES["cpu"], torch.bfloat16))


def _widened(operand: Any) -> Any:
    if operand.data.dtype != np.uint16:
        return operand
    from triton.language import float32
    from triton.runtime.interpreter import TensorHandle

    return TensorHandle((operand.data.astype(np.uint32) << 16).view(np.float32), float32)
