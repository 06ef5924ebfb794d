"""The main path on a CUDA device; deselected by `make test`, run by benchmarks/gpu.sh."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import archrank as ar

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_run_on_a_gpu_exports_what_it_measured(tmp_path: Path, dtype: str) -> None:
    run = ar.run(
        "lora_ranks",
        hw="a100",
        device="cuda",
        compute_dtype=dtype,
        trials=8,
        train_steps=20,
        finalists=1,
        out=tmp_path / "run",
    )
    final = next(t for t in run.trials if t.stage == "final")
    sub = run.extract(final)
    sub.save_pretrained(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    assert sub.adapter_params == final.values["adapter_params"]
