"""What the population benchmarks share: random models of known sizes, batches, and children of parents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from archrank.supernet import Elastic, elastic

__all__ = ["SIZES", "Size", "batches", "children", "net_of"]

RANKS = (0, 1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Size:
    """One random model and the tokens that a candidate is evaluated on: `rows` sequences of `tokens`."""

    kind: str
    layers: int
    width: int
    heads: int
    inner: int
    rows: int
    tokens: int

    @property
    def name(self) -> str:
        """Model and tokens, as they stand in a result."""
        return f"{self.kind} of {self.layers} × {self.width}, {self.rows} × {self.tokens} tokens"


SIZES = {
    "minilm-64": Size("bert", 6, 384, 12, 1536, 1, 64),
    "minilm-256": Size("bert", 6, 384, 12, 1536, 4, 64),
    "vit-tiny-197": Size("vit", 12, 192, 3, 768, 1, 197),
    "minilm-2048": Size("bert", 6, 384, 12, 1536, 32, 64),
    "vit-base-2048": Size("vit", 12, 768, 12, 3072, 10, 197),
    "llama-7b-layer-2048": Size("llama", 1, 4096, 32, 11008, 16, 128),
}


def net_of(size: Size, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Elastic:
    """A supernet of r_max 16 over a random base, its adapters not zero."""
    torch.manual_seed(0)
    shared = {
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.inner,
    }
    base: nn.Module
    if size.kind == "vit":
        base = transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=10, **shared))
    elif size.kind == "bert":
        base = transformers.BertForSequenceClassification(transformers.BertConfig(num_labels=3, **shared))
    else:
        base = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=1000, **shared))
    net = elastic(base.to(device, dtype).eval(), "lora_ranks", r_max=16)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.adapters.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.05)
    return net


def batches(size: Size, device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[dict[str, Tensor]]:
    """One batch."""
    g = torch.Generator().manual_seed(2)
    if size.kind == "vit":
        inputs = {"pixel_values": torch.randn(size.rows, 3, 224, 224, generator=g).to(dtype)}
        labels = torch.randint(0, 10, (size.rows,), generator=g)
    else:
        ids = torch.randint(1, 1000, (size.rows, size.tokens), generator=g)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        labels = ids if size.kind == "llama" else torch.randint(0, 3, (size.rows,), generator=g)
    return [{k: v.to(device) for k, v in {**inputs, "labels": labels}.items()}]


def children(
    net: Elastic, parents: int, each: int, mutations: int, seed: int
) -> tuple[list[dict[str, int]], list[dict[str, int]]]:
    """Random parents, and children that differ from theirs in `mutations` modules."""
    rng = np.random.default_rng(seed)
    first = [{n: int(rng.choice(RANKS)) for n in net.names} for _ in range(parents)]
    found = []
    for parent in first:
        for _ in range(each):
            child = dict(parent)
            for name in rng.choice(net.names, mutations, replace=False):
                child[str(name)] = int(rng.choice([r for r in RANKS if r != child[str(name)]]))
            found.append(child)
    return first, found
