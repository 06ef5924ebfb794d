"""Which implementation runs, and what is said where Triton cannot."""

from __future__ import annotations

import importlib.util
import warnings

import pytest
import torch

from archrank import kernels
from archrank.kernels import backend
from archrank.kernels.backend import LAUNCHES, launch_for, use_triton
from archrank.kernels.checks import KernelError


def test_cpu_tensors_run_torch_unless_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("ARCHRANK_KERNELS", raising=False)
    assert not use_triton("op", torch.ones(2, 2))
    monkeypatch.setenv("ARCHRANK_KERNELS", "triton")
    with pytest.raises(
        KernelError, match=r"op: ARCHRANK_KERNELS=triton, and the tensors are on cpu, where Triton runs only"
    ):
        use_triton("op", torch.ones(2, 2))


@pytest.mark.usefixtures("interpreter")
def test_the_interpreter_and_what_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert use_triton("op", torch.ones(2, 2))
    assert not use_triton("op", torch.ones(2, 2).double())
    monkeypatch.setenv("ARCHRANK_KERNELS", "triton")
    with pytest.raises(KernelError, match=r"its kernel has no float64 there; it has float16, float32, bfloat16"):
        use_triton("op", torch.ones(2, 2).double())
    huge = torch.ones(1).expand(2**16, 2**16).as_strided((2**16, 2**16), (0, 0))
    assert use_triton("op", huge), "an expanded tensor reaches one element"
    far = torch.empty(0).as_strided((0, 2), (2**31, 1))
    assert use_triton("op", far)
    monkeypatch.setattr(backend, "LARGEST", 16)
    with pytest.raises(KernelError, match=r"shape \(5, 5\) reaches over 2\^31 elements"):
        use_triton("op", torch.ones(5, 5))
    with pytest.raises(KernelError, match=r"op: .*it would write 16 elements to one tensor, 2\^31 or more"):
        use_triton("op", torch.ones(2, 2), largest=16)
    monkeypatch.setenv("ARCHRANK_KERNELS", "torch")
    assert not use_triton("op", torch.ones(2, 2))


@pytest.mark.usefixtures("interpreter")
def test_outputs_beyond_32_bit_offsets_leave_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small inputs may have a large output: the op then runs as torch, and where Triton is forced it is told."""
    monkeypatch.setattr(backend, "LARGEST", 60)
    monkeypatch.setenv("ARCHRANK_KERNELS", "triton")
    x, weights, choice = torch.ones(2, 5, 4), torch.ones(1, 8, 4), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(KernelError, match=r"grouped_choice_linear: .* would write 80 elements"):
        kernels.grouped_choice_linear(x, weights, choice)
    rows = torch.ones(9, 4), torch.ones(3, 4), torch.ones(8, 4), torch.ones(3, 8), torch.ones(1, 8)
    with pytest.raises(KernelError, match=r"gated_lora: .* would write 72 elements"):
        kernels.gated_lora(*rows, torch.zeros(9, dtype=torch.int64))
    monkeypatch.setenv("ARCHRANK_KERNELS", "")
    assert torch.equal(kernels.grouped_choice_linear(x, weights, choice), torch.full((2, 5, 8), 4.0))


def test_an_old_gpu_runs_torch_and_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnCuda:
        device, dtype, shape = torch.device("cuda"), torch.bfloat16, torch.Size([2])

        def numel(self) -> int:
            return 2

        def stride(self) -> tuple[int, ...]:
            return (1,)

    monkeypatch.setenv("ARCHRANK_KERNELS", "")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(backend, "_has_triton", lambda: True)
    backend._say.cache_clear()
    with pytest.warns(UserWarning, match=r"Tesla T4 is sm_75: kernels for sm_80 and later run as torch ops"):
        assert not use_triton("gated_lora", OnCuda())  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not use_triton("gated_lora", OnCuda())  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert use_triton("gated_lora", OnCuda())  # type: ignore[arg-type]
    monkeypatch.setenv("ARCHRANK_KERNELS", "triton")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(KernelError, match=r"gated_lora: ARCHRANK_KERNELS=triton, and the device is sm_75, older than"):
        use_triton("gated_lora", OnCuda())  # type: ignore[arg-type]


def test_the_plain_interpreter_gets_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """It multiplies bit patterns, without a word."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("ARCHRANK_KERNELS", "")
    assert not use_triton("op", torch.ones(2).bfloat16())


def test_a_missing_triton_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("ARCHRANK_KERNELS", "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    backend._has_triton.cache_clear()
    backend._say.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r"triton is not installed: op and the other kernels run as torch ops"):
            assert not use_triton("op", torch.ones(2))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not use_triton("op", torch.ones(2))
    finally:
        backend._has_triton.cache_clear()
        backend._say.cache_clear()


def test_launches_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(2)
    assert launch_for("gated_shrink", x) == LAUNCHES["interpreter"]["gated_shrink"]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))

    class OnCuda:
        device = torch.device("cuda")

    assert launch_for("gated_shrink", OnCuda()) == LAUNCHES["sm_90"]["gated_shrink"]  # type: ignore[arg-type]
    assert launch_for("walsh_hadamard", OnCuda()) == LAUNCHES["cuda"]["walsh_hadamard"]  # type: ignore[arg-type]
    assert set(LAUNCHES["interpreter"]) == set(LAUNCHES["cuda"])
