"""Whether the layers of an encoder can be cut at all: a few tokens through half of every layer, and through the whole
with the other half silenced, must give the same.

Shapes of linear layers do not say it: attention that adds a bias for each head or counts heads itself (MPNet, DeBERTa,
BEiT with relative positions), or layers that share one set of weights (ALBERT), look like any other. This tells before
anything is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from archrank.grammar import LayerChoice, Space
from archrank.supernet.adapters.lora import LoRA
from archrank.supernet.encoders import EncoderError, LayerModules
from archrank.supernet.importance import LayerOrder, Order

__all__ = ["check_cuttable"]

SHARE = 50
TOLERANCE = 1e-4
COARSE = 0.02
"""Of the largest logit, in fp32 and in 16 bits: above round-off."""
KNOWN = "BERT, RoBERTa, DistilBERT, ELECTRA, ViT and DeiT"


def check_cuttable(base: nn.Module, layers: Mapping[str, LayerModules], space: Space) -> None:
    """EncoderError where a linear layer is not a plain one, runs more than once, or a layer with fewer heads is not the
    layer with the others silenced. A base that needs other inputs than tokens or pixels is not tried. space: the net's.
    """
    from archrank.supernet.elastic_encoder import ElasticEncoder

    store: dict[str, nn.Module] = {}
    for modules in layers.values():
        for name in modules.names.values():
            linear = base.get_submodule(name)
            if type(linear) is not nn.Linear:
                raise EncoderError(
                    f"{name} is a {type(linear).__name__}; only a plain Linear (not quantised, not wrapped) can be "
                    "cut: load the base in fp32 or bf16, and merge its adapters"
                )
            store[name] = LoRA(linear.out_features, linear.in_features, 1)
    orders = {n: LayerOrder(tuple(range(m.sizes.heads)), tuple(range(m.sizes.ffn))) for n, m in layers.items()}
    net = ElasticEncoder(base, store, space, layers, Order(orders, {}, 1), 1)
    inputs = _few(base)
    if inputs is None:
        return
    half, training = net.smallest(SHARE), base.training
    base.eval()
    try:
        with torch.no_grad():
            try:
                with _silenced(base, layers, half) as runs:
                    wanted = _answer(base(**inputs))
            except (RuntimeError, ValueError, TypeError):
                return  # it reads something else too
            again = next((n for n, times in runs.items() if times != 1), None)
            if again is not None:
                raise EncoderError(
                    f"{type(base).__name__}: {again} runs {runs[again]} times in one forward, so its layers share "
                    f"their weights and none can be cut by itself; encoders that can be cut: {KNOWN}"
                )
            with net.attached(half):
                moved = float((_answer(base(**inputs)) - wanted).abs().max())
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, EncoderError):
            raise
        moved, told = float("inf"), str(error).splitlines()[0]
    else:
        told = f"its answer moves by {moved:.2g}"
    finally:
        base.train(training)
    fine = next(base.parameters()).dtype in (torch.float32, torch.float64)
    if not moved <= (TOLERANCE if fine else COARSE) * max(1.0, float(wanted.abs().max())):
        raise EncoderError(
            f"{type(base).__name__}: a layer with fewer heads is not the same layer with the others silenced ({told}); "
            f"attention that adds a bias for each head or counts heads itself, as in MPNet, DeBERTa and BEiT, cannot "
            f"be cut; encoders that can be cut: {KNOWN}"
        )


def _answer(output: Any) -> Tensor:
    """The logits of a head, else the states of a bare encoder, in fp32."""
    found: Tensor = output.logits if hasattr(output, "logits") else output[0]
    return found.float()


@contextmanager
def _silenced(
    base: nn.Module, layers: Mapping[str, LayerModules], kept: Mapping[str, LayerChoice]
) -> Iterator[dict[str, int]]:
    """Inside, heads and channels beyond the first ones that `kept` leaves enter `o` and `down` as zeros; how often each
    layer's `o` has run.
    """
    runs = dict.fromkeys(layers, 0)

    def silence(name: str, width: int, counted: bool) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            runs[name] += counted
            x = args[0].clone()
            x[..., width:] = 0
            return (x, *args[1:])

        return hook

    handles = []
    for name, modules in layers.items():
        widths = {"o": kept[name].heads * modules.sizes.head, "down": kept[name].ffn}
        for role, width in widths.items():
            linear = base.get_submodule(modules.names[role])
            handles.append(linear.register_forward_pre_hook(silence(name, width, role == "o")))
    try:
        yield runs
    finally:
        for handle in handles:
            handle.remove()


def _few(base: nn.Module) -> dict[str, Tensor] | None:
    """One row of five tokens, or one grey picture; None where the model's configuration does not say what it reads."""
    config, name = getattr(base, "config", None), getattr(base, "main_input_name", None)
    device = next(base.parameters()).device
    if name == "input_ids" and isinstance(words := getattr(config, "vocab_size", None), int):
        return {"input_ids": torch.full((1, 5), min(3, words - 1), device=device)}
    side, channels = getattr(config, "image_size", None), getattr(config, "num_channels", None)
    if name == "pixel_values" and side and isinstance(channels, int):
        high, wide = (side, side) if isinstance(side, int) else side
        return {
            "pixel_values": torch.zeros(1, channels, high, wide, device=device, dtype=next(base.parameters()).dtype)
        }
    return None
