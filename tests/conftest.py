"""Shared fixtures: tiny random-weight models of four kinds, where the public tables lie, Triton's interpreter."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may wait for a hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if shutil.which("nvidia-smi") is None:
    # Triton decides at its import whether kernels are interpreted; ops run them only in tests with the fixture
    # `interpreter` (below)
    os.environ.setdefault("TRITON_INTERPRET", "1")
    os.environ.setdefault("ARCHRANK_KERNELS", "torch")

KINDS = ("vit", "bert", "llama", "gpt2")


@pytest.fixture
def resident() -> Callable[[], int]:
    """Bytes of this process in memory; skips where the system does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("no /proc: resident memory is not read here")
    return lambda: int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of model in turn."""
    return str(request.param)


@pytest.fixture
def tiny() -> Callable[[str], object]:
    """Kind -> a tiny model with random weights that are the same each time, also roberta, distilbert and electra; Llama
    has grouped-query attention, GPT-2 Conv1D.
    """
    import torch
    import transformers as t

    def make(kind: str) -> object:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            shared = {
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 64,
                "initializer_range": 0.15,
            }
            if kind == "vit":
                config = t.ViTConfig(image_size=8, patch_size=2, num_channels=1, num_labels=5, **shared)
                return t.ViTForImageClassification(config).eval()
            if kind == "bert":
                return t.BertForSequenceClassification(t.BertConfig(vocab_size=60, num_labels=3, **shared)).eval()
            if kind == "roberta":
                return t.RobertaForSequenceClassification(
                    t.RobertaConfig(vocab_size=60, num_labels=3, pad_token_id=1, max_position_embeddings=64, **shared)
                ).eval()
            if kind == "electra":  # its embeddings are projected to the width of its layers
                config = t.ElectraConfig(vocab_size=60, num_labels=3, embedding_size=16, **shared)
                return t.ElectraForSequenceClassification(config).eval()
            if kind == "distilbert":
                config = t.DistilBertConfig(
                    vocab_size=60, num_labels=3, dim=32, n_layers=2, n_heads=4, hidden_dim=64, initializer_range=0.15
                )
                return t.DistilBertForSequenceClassification(config).eval()
            if kind == "llama":
                config = t.LlamaConfig(
                    vocab_size=60, num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2, **shared
                )
                return t.LlamaForCausalLM(config).eval()
            return t.GPT2LMHeadModel(
                t.GPT2Config(
                    vocab_size=60,
                    n_embd=32,
                    n_layer=2,
                    n_head=4,
                    n_positions=64,
                    initializer_range=0.15,
                    bos_token_id=1,
                    eos_token_id=2,
                )
            ).eval()

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public tables; the test is skipped where there is none."""
    folder = Path(os.environ.get("ARCHRANK_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not (folder / "devices.csv").exists():
        pytest.skip(f"no public tables at {folder}: set ARCHRANK_DATA to their folder")
    return folder


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
    import torch
    from triton.runtime import interpreter as triton_interpreter

    from archrank.kernels import backend

    plain = triton_interpreter.InterpreterBuilder.create_dot

    def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        return plain(self, _widened(a), _widened(b), d, *rest)

    monkeypatch.setattr(triton_interpreter.InterpreterBuilder, "create_dot", create_dot)
    monkeypatch.setitem(backend.DTYPES, "cpu", (*backend.DTYPES["cpu"], torch.bfloat16))


def _widened(operand: Any) -> Any:
    import numpy as np

    if operand.data.dtype != np.uint16:
        return operand
    from triton.language import float32
    from triton.runtime.interpreter import TensorHandle

    return TensorHandle((operand.data.astype(np.uint32) << 16).view(np.float32), float32)
