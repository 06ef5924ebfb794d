"""The workload of a Hugging Face model, with or without adapters, for `archrank.predictors`.

The base is traced once on fake tensors: shapes flow, nothing is computed, no weight is touched or copied.
Linear layers, products, attention, convolutions, norms, activations, embeddings and the element-wise rest
become op costs. A configuration then costs a dictionary look-up per module (`with_adapters`), so that
thousands can be priced.

A decoder-only model is priced at its prefill: one pass over (batch, seq) tokens, whose keys and values it
keeps. Dropout is left out, whatever mode the model is in.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from archrank.grammar.workload import OpCost, Workload, WorkloadError

Deploy = Literal["merged", "unmerged", "vllm"]
Shapes = Mapping[str, tuple[int, int]]
VLLM_BUCKETS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks vLLM's LoRA kernels are built for (its `max_lora_rank`); every adapter is padded to one of
them."""

_aten = torch.ops.aten
_ACTIVATIONS = {_aten.gelu: "gelu", _aten.silu: "silu", _aten.relu: "relu", _aten.tanh: "tanh"}
_SOFTMAX = {_aten._softmax, _aten._safe_softmax, _aten._log_softmax}
_COPIES = {_aten.clone, _aten.copy_, _aten._to_copy, _aten.cat, _aten.contiguous}
_PRODUCTS = {_aten.mm: 0, _aten.addmm: 1, _aten.bmm: 0, _aten.baddbmm: 1}


@dataclass(frozen=True)
class Trace(Workload):
    """A base's workload, with `shapes` (out, in) and `rows` (rows that pass in one forward) of each of its
    linear modules.
    """

    shapes: Shapes = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)


def workload(
    base_model: nn.Module,
    config: Mapping[str, int] | None = None,
    *,
    batch: int = 1,
    seq: int = 128,
    deploy: Deploy = "merged",
) -> Workload:
    """What one forward of `base_model` with adapters `config` {module name: rank} costs; traces the base each
    time.

    Inputs: `input_ids` (batch, seq), or `pixel_values` (batch, channels, height, width) as the model's
    configuration says. FLOPs equal those of torch's FlopCounterMode. Errors: those of `trace` and
    `with_adapters`.
    """
    traced = trace(base_model, batch=batch, seq=seq)
    return with_adapters(traced, traced.shapes, config or {}, deploy, traced.rows)


def trace(base_model: nn.Module, *, batch: int = 1, seq: int = 128) -> Trace:
    """Traces one forward on fake tensors; the base stays as it was. A matter of milliseconds a layer.

    `WorkloadError` for a batch or seq below 1, a seq beyond the model's positions, or a model whose input is
    neither `input_ids` nor `pixel_values`.
    """
    inputs = example(base_model, batch, seq)
    recorder = _Recorder({id(module): name for name, module in base_model.named_modules()})
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as fake:
        faked = {name: fake.from_tensor(tensor) for name, tensor in inputs.items()}
        with recorder.hooks(), _Functions(recorder), _Dispatched(recorder):
            base_model(**faked, **_switches(base_model))
    return Trace(
        tuple(recorder.ops),
        weight_elements=sum(parameter.numel() for parameter in base_model.parameters()),
        activation_elements=max((op.activation_elements for op in recorder.ops), default=0),
        kv_elements=_kv_elements(base_model, batch, seq),
        shapes=linear_shapes(base_model),
        rows=dict(recorder.rows),
    )


def linear_shapes(base_model: nn.Module) -> dict[str, tuple[int, int]]:
    """{module name: (out_features, in_features)} of every module that can carry an adapter: `nn.Linear`,
    GPT-2's `Conv1D`.
    """
    return {name: shape for name, module in base_model.named_modules() if (shape := _shape(module))}


def with_adapters(
    base_workload: Workload,
    shapes: Shapes,
    config: Mapping[str, int],
    deploy: str,
    rows: int | Mapping[str, int],
) -> Workload:
    """`base_workload` plus what the adapters `config` {module name: rank} add; rank 0 is no adapter. No torch
    inside.

    - `merged` adds nothing: W + B A is one matrix, whatever the rank.
    - `unmerged` adds a `lora` op (m = rows, k = in, n = out, r = rank) a module, and its r (in + out)
      weights.
    - `vllm` adds a `vllm_lora` op at the bucket of the largest rank to every module of each kind (the last
      part of the name) that carries an adapter, in every layer: vLLM pads to the bucket and runs its kernels
      on all of them.

    `rows`: how many rows pass a module in one forward (batch × tokens), one number or per module.
    `WorkloadError` for an unknown module (with the nearest names), a negative rank, one above vLLM's largest
    bucket, or an unknown `deploy`.
    """
    if deploy not in get_args(Deploy):
        raise WorkloadError(f"deploy = {deploy!r}, but it is one of {', '.join(get_args(Deploy))}")
    _check(config, shapes)
    ranks = {name: rank for name, rank in config.items() if rank > 0}
    if deploy == "merged" or not ranks:
        return base_workload
    if deploy == "unmerged":
        op, size = "lora", "r"
    else:
        op, size = "vllm_lora", "bucket"
        kinds, bucket = {_kind(name) for name in ranks}, vllm_bucket(max(ranks.values()))
        ranks = {name: bucket for name in shapes if _kind(name) in kinds}
    sizes = Counter((_rows(rows, name), *shapes[name], rank) for name, rank in ranks.items())
    added = tuple(
        OpCost(op, (("m", m), ("n", n), ("k", k), (size, rank)), count=count)
        for (m, n, k, rank), count in sizes.items()
        if m
    )
    weights = sum(rank * sum(shapes[name]) for name, rank in ranks.items())
    return base_workload + Workload(added, weights, max((a.activation_elements for a in added), default=0))


def vllm_bucket(rank: int) -> int:
    """The smallest of `VLLM_BUCKETS` that holds `rank`; `WorkloadError` where none does."""
    for bucket in VLLM_BUCKETS:
        if rank <= bucket:
            return bucket
    raise WorkloadError(
        f"rank {rank} is above vLLM's largest, {VLLM_BUCKETS[-1]}: lower it, or deploy merged or unmerged"
    )


def _check(config: Mapping[str, int], shapes: Shapes) -> None:
    for name, rank in config.items():
        if name not in shapes:
            near = get_close_matches(name, shapes, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"it has {len(shapes)} linear modules"
            raise WorkloadError(f"the base has no linear module {name!r}: {hint}")
        if rank < 0:
            raise WorkloadError(f"{name}: rank {rank}, but a rank is at least 0 (no adapter)")


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _rows(rows: int | Mapping[str, int], name: str) -> int:
    """Rows of a module; one that the traced forward never ran has none."""
    return rows if isinstance(rows, int) else rows.get(name, 0)


def _shape(module: nn.Module) -> tuple[int, int] | None:
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if type(module).__name__ == "Conv1D" and isinstance(weight, torch.Tensor):  # transformers': weight (in, out)
        return int(weight.shape[1]), int(weight.shape[0])
    return None


def example(model: nn.Module, batch: int, seq: int) -> dict[str, torch.Tensor]:
    """An input of zeros: `input_ids` (batch, seq), or `pixel_values` as the configuration says; errors of `trace`."""
    for name, size in (("batch", batch), ("seq", seq)):
        if size < 1:
            raise WorkloadError(f"{name} = {size}, but it is at least 1")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    config: Any = getattr(model, "config", None)
    wanted = getattr(model, "main_input_name", "input_ids")
    if wanted == "input_ids":
        limit = getattr(config, "max_position_embeddings", None)
        if isinstance(limit, int) and seq > limit > 0:
            raise WorkloadError(f"seq = {seq} is above the {limit} positions of {type(model).__name__}: lower it")
        return {"input_ids": torch.zeros(batch, seq, dtype=torch.long, device=device)}
    if wanted == "pixel_values" and hasattr(config, "image_size"):
        side, channels = config.image_size, getattr(config, "num_channels", 3)
        height, width = (side, side) if isinstance(side, int) else side
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        return {"pixel_values": torch.zeros(batch, channels, height, width, dtype=dtype, device=device)}
    raise WorkloadError(
        f"{type(model).__name__} takes {wanted}: only models that take input_ids, or pixel_values with an "
        "image_size in their configuration, can be traced"
    )


def _switches(model: nn.Module) -> dict[str, bool]:
    """Keywords that keep a causal model's cache objects out of the traced forward."""
    return {"use_cache": False} if _is_causal_lm(model) else {}


def _is_causal_lm(model: nn.Module) -> bool:
    can_generate = getattr(model, "can_generate", None)
    encoder_only = getattr(model, "main_input_name", "") != "input_ids"
    return bool(can_generate and can_generate()) and not encoder_only


def _kv_elements(model: nn.Module, batch: int, seq: int) -> int:
    """Keys and values of a causal model: 2 × layers × batch × seq × kv_heads × head_dim."""
    if not _is_causal_lm(model):
        return 0
    config: Any = model.config
    heads = int(config.num_attention_heads)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return 2 * int(config.num_hidden_layers) * batch * seq * kv_heads * width


def _fused(module: nn.Module) -> str | None:
    """The op that a module stands for as a whole although it is written in several torch calls, by its
    class's name.
    """
    name = type(module).__name__.lower()
    if name.endswith("rmsnorm"):
        return "rms_norm"
    if name.endswith(("activation", "gelu")):
        return "silu" if "silu" in name else "gelu"
    return None


@dataclass
class _Recorder:
    """The ops seen so far. `muted` > 0 inside a call that was recorded as a whole."""

    names: Mapping[int, str]
    ops: list[OpCost] = field(default_factory=list)
    rows: Counter[str] = field(default_factory=Counter)
    muted: int = 0

    def add(self, op: str, sizes: Mapping[str, int]) -> None:
        """One run of an op, unless it is part of one recorded already or has nothing to do."""
        if not self.muted and all(sizes.values()):
            self.ops.append(OpCost.of(op, sizes))

    def add_rows(self, op: str, tensor: torch.Tensor) -> None:
        """A row-wise op over a tensor's last axis."""
        if tensor.numel():
            width = tensor.shape[-1] if tensor.dim() else 1
            self.add(op, {"m": tensor.numel() // width, "n": width})

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Watches the base's modules from torch's global hooks, so that the base itself gets none."""
        first = register_module_forward_pre_hook(self._enter)
        last = register_module_forward_hook(self._leave)
        try:
            yield
        finally:
            first.remove()
            last.remove()

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        if id(module) not in self.names or not inputs or not isinstance(inputs[0], torch.Tensor):
            return
        if _shape(module):
            self.rows[self.names[id(module)]] += inputs[0].numel() // inputs[0].shape[-1]
        fused = _fused(module)
        if fused:
            self.add_rows(fused, inputs[0])
            self.muted += 1

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if id(module) in self.names and inputs and isinstance(inputs[0], torch.Tensor) and _fused(module):
            self.muted -= 1


class _Functions(TorchFunctionMode):
    """Records attention as one op whatever backend would run it, and skips dropout."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func is nn.functional.dropout:
            return args[0] if args else given["input"]
        if func is not nn.functional.scaled_dot_product_attention:
            return func(*args, **given)
        query, key, value = (*args, *(given[name] for name in ("query", "key", "value") if name in given))[:3]
        *lead, heads, q, d = query.shape
        sizes = {"heads": heads, "q": q, "kv": key.shape[-2], "d": d, "kv_heads": key.shape[-3]}
        self.recorder.add("attention", {"b": math.prod(lead), **sizes})
        # rows outermost, as the fused kernels leave it: what follows then needs no copy
        return query.new_empty(*lead, q, heads, value.shape[-1]).transpose(-3, -2)


class _Dispatched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records what reaches ATen outside the calls that are recorded as a whole."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recorder = recorder

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **dict(kwargs or {}))
        if not self.recorder.muted:
            self._note(func, args, out[0] if isinstance(out, (tuple, list)) and out else out)
        return out

    def _note(self, func: Any, args: Sequence[Any], out: Any) -> None:
        packet = func.overloadpacket
        if not isinstance(out, torch.Tensor) or not out.is_floating_point():
            return
        if packet in _PRODUCTS:
            self._product(args[_PRODUCTS[packet]], out)
        elif packet in (_aten.convolution, _aten._convolution):
            self._convolution(args, out)
        elif packet is _aten.embedding:
            self.recorder.add_rows("embedding", out)
        elif packet is _aten.native_layer_norm:
            self.recorder.add_rows("layer_norm", out)
        elif packet in _SOFTMAX:
            self.recorder.add_rows("softmax", out)
        elif packet in _ACTIVATIONS:
            self.recorder.add_rows(_ACTIVATIONS[packet], out)
        elif packet in _COPIES:
            self.recorder.add_rows("copy", out)
        elif torch.Tag.pointwise in func.tags:
            tensors = sum(isinstance(arg, torch.Tensor) and arg.numel() == out.numel() for arg in args)
            self.recorder.add_rows("add" if tensors > 1 else "elementwise", out)

    def _product(self, left: torch.Tensor, out: torch.Tensor) -> None:
        m, n, k = out.shape[-2], out.shape[-1], left.shape[-1]
        if out.dim() == 3:
            self.recorder.add("bmm", {"b": out.shape[0], "m": m, "n": n, "k": k})
        else:
            self.recorder.add("linear", {"m": m, "n": n, "k": k})

    def _convolution(self, args: Sequence[Any], out: torch.Tensor) -> None:
        """A square 2-d convolution as `conv2d`; any other as the product it unfolds to, which has the same
        FLOPs.
        """
        image, weight, _, stride, padding, dilation, transposed, _, groups = args[:9]
        square = weight.dim() == 4 and all(len(set(axis)) == 1 for axis in (weight.shape[2:], stride, padding))
        if square and not transposed and set(dilation) == {1}:
            b, c_in, h, w = image.shape
            c_out, kernel = weight.shape[0], weight.shape[2]
            sizes = {"b": b, "c_in": c_in, "c_out": c_out, "h": h, "w": w, "kernel": kernel}
            cost = OpCost.of("conv2d", {**sizes, "stride": stride[0], "padding": padding[0], "groups": groups})
            self.recorder.ops.append(cost)
            return
        positions = (image if transposed else out)[0, 0].numel() * out.shape[0]
        k = math.prod(weight.shape[1:])
        self.recorder.add("bmm", {"b": groups, "m": positions, "n": weight.shape[0] // groups, "k": k})
