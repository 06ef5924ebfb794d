"""What a device prices: op costs in closed form. No torch.

One `OpCost` is one operator with its sizes; a `Workload` is the bag of them that one forward pass runs, with
the elements it keeps in memory. Letters: rows m, outputs n, inputs k, batch b, adapter rank r.

FLOPs are 2 × multiply-adds of matrix products and convolutions, attention products included, other work
counted as none: what `torch.utils.flop_counter.FlopCounterMode` counts. Bytes are elements × size of the
dtype, each operand read once and each result written once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property, lru_cache
from typing import Any

DTYPE_BYTES: Mapping[str, int] = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "fp8": 1, "int8": 1}
"""Bytes of one element; tf32 rounds inside the tensor cores only and is stored as fp32."""

Dims = Mapping[str, Any]
"""Sizes by name: whole numbers, or numpy arrays that broadcast (the forms below are plain arithmetic)."""


class WorkloadError(ValueError):
    """An op, a size or a dtype that has no closed form."""


def _none(dims: Dims) -> Any:
    return 0


@dataclass(frozen=True, kw_only=True)
class OpForm:
    """The closed form of one op: each function maps the op's sizes to a number (or an array of them).

    `flops` 2 × multiply-adds; `weights` parameters read; `reads`, `writes` activation elements; `launches`
    kernels an eager run starts; `kind` the class of kernels whose efficiency it shares.
    """

    kind: str
    required: tuple[str, ...]
    optional: Mapping[str, int | str] = field(default_factory=dict)
    flops: Callable[[Dims], Any] = _none
    weights: Callable[[Dims], Any] = _none
    reads: Callable[[Dims], Any]
    writes: Callable[[Dims], Any]
    launches: int = 1


def conv_outputs(d: Dims) -> Any:
    """Output positions of a square convolution: (⌊(h + 2·padding − kernel) / stride⌋ + 1) × the same for
    w.
    """
    high = (d["h"] + 2 * d["padding"] - d["kernel"]) // d["stride"] + 1
    wide = (d["w"] + 2 * d["padding"] - d["kernel"]) // d["stride"] + 1
    return high * wide


def _rows(kind: str, inputs: int = 1, weights: int = 0) -> OpForm:
    """An op over m × n elements that reads `inputs` such arrays, and `weights` vectors of n, and writes
    one.
    """
    return OpForm(
        kind=kind,
        required=("m",),
        optional={"n": 1},
        weights=lambda d: weights * d["n"],
        reads=lambda d: inputs * d["m"] * d["n"],
        writes=lambda d: d["m"] * d["n"],
    )


_CONV = {"stride": 1, "padding": 0, "groups": 1}
FORMS: Mapping[str, OpForm] = {
    "linear": OpForm(
        kind="matmul",
        required=("m", "n", "k"),
        flops=lambda d: 2 * d["m"] * d["n"] * d["k"],
        weights=lambda d: d["n"] * d["k"],
        reads=lambda d: d["m"] * d["k"],
        writes=lambda d: d["m"] * d["n"],
    ),
    "bmm": OpForm(
        kind="matmul",
        required=("b", "m", "n", "k"),
        flops=lambda d: 2 * d["b"] * d["m"] * d["n"] * d["k"],
        reads=lambda d: d["b"] * (d["m"] * d["k"] + d["k"] * d["n"]),
        writes=lambda d: d["b"] * d["m"] * d["n"],
    ),
    "conv2d": OpForm(
        kind="conv",
        required=("b", "c_in", "c_out", "h", "w", "kernel"),
        optional=_CONV,
        flops=lambda d: (
            2 * d["b"] * d["c_out"] * (d["c_in"] // d["groups"]) * d["kernel"] * d["kernel"] * conv_outputs(d)
        ),
        weights=lambda d: d["c_out"] * (d["c_in"] // d["groups"]) * d["kernel"] * d["kernel"],
        reads=lambda d: d["b"] * d["c_in"] * d["h"] * d["w"],
        writes=lambda d: d["b"] * d["c_out"] * conv_outputs(d),
    ),
    # fused: the q × kv scores never reach memory; a causal mask counts in full, as torch counts it
    "attention": OpForm(
        kind="attention",
        required=("b", "heads", "q", "kv", "d"),
        optional={"kv_heads": "heads"},
        flops=lambda d: 4 * d["b"] * d["heads"] * d["q"] * d["kv"] * d["d"],
        reads=lambda d: d["b"] * d["d"] * (d["heads"] * d["q"] + 2 * d["kv_heads"] * d["kv"]),
        writes=lambda d: d["b"] * d["d"] * d["heads"] * d["q"],
    ),
    "softmax": _rows("softmax"),
    "layer_norm": _rows("norm", weights=2),
    "rms_norm": _rows("norm", weights=1),
    "gelu": _rows("activation"),
    "silu": _rows("activation"),
    "relu": _rows("activation"),
    "tanh": _rows("activation"),
    "silu_mul": _rows("activation", inputs=2),  # a gated MLP's fused activation
    "rope": _rows("elementwise"),
    "copy": _rows("elementwise"),
    "elementwise": _rows("elementwise"),
    "add": _rows("elementwise", inputs=2),
    "mul": _rows("elementwise", inputs=2),
    "embedding": OpForm(  # m rows of width n gathered: the table counts as read only where it is
        kind="embedding",
        required=("m", "n"),
        weights=lambda d: d["m"] * d["n"],
        reads=lambda d: d["m"],
        writes=lambda d: d["m"] * d["n"],
    ),
    # PEFT's unmerged branch, y = y + (x Aᵀ) Bᵀ · s: two products, a scaling and an addition, each a kernel
    "lora": OpForm(
        kind="matmul",
        required=("m", "n", "k", "r"),
        flops=lambda d: 2 * d["m"] * d["r"] * (d["k"] + d["n"]),
        weights=lambda d: d["r"] * (d["k"] + d["n"]),
        reads=lambda d: d["m"] * (d["k"] + d["r"] + 3 * d["n"]),
        writes=lambda d: d["m"] * (d["r"] + 3 * d["n"]),
        launches=4,
    ),
    # vLLM's shrink and expand kernels on the zero-padded rank; y is read and rewritten
    "vllm_lora": OpForm(
        kind="matmul",
        required=("m", "n", "k", "bucket"),
        flops=lambda d: 2 * d["m"] * d["bucket"] * (d["k"] + d["n"]),
        weights=lambda d: d["bucket"] * (d["k"] + d["n"]),
        reads=lambda d: d["m"] * (d["k"] + d["bucket"] + d["n"]),
        writes=lambda d: d["m"] * (d["bucket"] + d["n"]),
        launches=2,
    ),
    "other": OpForm(  # an op of the user's own, from its totals
        kind="elementwise",
        required=("flops", "read", "written"),
        optional={"parameters": 0},
        flops=lambda d: d["flops"],
        weights=lambda d: d["parameters"],
        reads=lambda d: d["read"],
        writes=lambda d: d["written"],
    ),
}
"""Every op that can be priced. The letters: `m` rows, `n` width or outputs, `k` inputs, `b` batch, `r`
rank."""

_MAY_BE_ZERO = frozenset({"padding", "flops", "read", "written", "parameters"})


def least(dim: str) -> int:
    """The smallest value that a size may have: 0 for `padding` and the totals of `other`, else 1."""
    return 0 if dim in _MAY_BE_ZERO else 1


def form(op: str) -> OpForm:
    """The closed form of `op`; `WorkloadError` names the nearest one that exists."""
    if op in FORMS:
        return FORMS[op]
    near = get_close_matches(op, FORMS, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    raise WorkloadError(f"unknown op {op!r}: {hint}known are {', '.join(sorted(FORMS))}")


def completed(op: str, dims: Dims) -> dict[str, Any]:
    """`dims` in the op's own order with the optional sizes filled in; `WorkloadError` where one is missing or
    not the op's.
    """
    wanted = form(op)
    names = (*wanted.required, *wanted.optional)
    missing = [name for name in wanted.required if name not in dims]
    extra = [name for name in dims if name not in names]
    if missing or extra:
        fault = f"{', '.join(missing)} missing" if missing else f"it has no {', '.join(extra)}"
        options = f" (optional: {', '.join(wanted.optional)})" if wanted.optional else ""
        raise WorkloadError(f"{op} takes {', '.join(wanted.required)}{options}: {fault}")
    full = dict(dims)
    for name, default in wanted.optional.items():
        if name not in full:
            full[name] = full[default] if isinstance(default, str) else default
    return {name: full[name] for name in names}


def dtype_bytes(dtype: str) -> int:
    """Bytes of one element of `dtype`; `WorkloadError` lists the dtypes when it is none of them."""
    if dtype not in DTYPE_BYTES:
        raise WorkloadError(f"unknown dtype {dtype!r}: known are {', '.join(DTYPE_BYTES)}")
    return DTYPE_BYTES[dtype]


@lru_cache(maxsize=65536)
def _checked(op: str, dims: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    full = completed(op, dict(dims))
    for name, size in full.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < least(name):
            raise WorkloadError(f"{op}: {name} = {size!r}, but it is a whole number of at least {least(name)}")
    if op == "conv2d":
        _check_conv(full)
    return tuple(full.items())


def _check_conv(d: Mapping[str, int]) -> None:
    if d["c_in"] % d["groups"] or d["c_out"] % d["groups"]:
        raise WorkloadError(f"conv2d: {d['groups']} groups do not divide {d['c_in']} and {d['c_out']} channels")
    if min(d["h"], d["w"]) + 2 * d["padding"] < d["kernel"]:
        raise WorkloadError(f"conv2d: kernel {d['kernel']} is larger than the padded {d['h']} × {d['w']} input")


@dataclass(frozen=True)
class OpCost:
    """`count` runs of one op at one size. `dims` is put into the op's order with optional sizes filled in, so
    equal ops are equal.

    `dtype` is None where the device's caller chooses it; `label` is what an op of the user's own is called.
    `WorkloadError` for an unknown op, dtype or size.
    """

    op: str
    dims: tuple[tuple[str, int], ...]
    dtype: str | None = None
    count: int = 1
    label: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", _checked(self.op, tuple(self.dims)))
        if self.dtype is not None:
            dtype_bytes(self.dtype)
        if self.count < 1:
            raise WorkloadError(f"{self.op}: count = {self.count!r}, but an op runs at least once")

    @classmethod
    def of(cls, op: str, dims: Mapping[str, int], dtype: str | None = None, count: int = 1) -> OpCost:
        """The same from a mapping: `OpCost.of("linear", {"m": 8, "n": 4, "k": 2})`."""
        return cls(op, tuple(dims.items()), dtype, count)

    @cached_property
    def key(self) -> tuple[str, tuple[tuple[str, int], ...], str | None]:
        """What two runs of the same op share: everything but `count`."""
        return (self.op, self.dims, self.dtype)

    def dim(self, name: str) -> int:
        """One size by its letter; `WorkloadError` lists those the op has."""
        sizes = dict(self.dims)
        if name not in sizes:
            raise WorkloadError(f"{self.op} has no {name!r}: its sizes are {', '.join(sizes)}")
        return sizes[name]

    @property
    def flops(self) -> int:
        """2 × multiply-adds, all `count` runs together."""
        return self.count * int(FORMS[self.op].flops(dict(self.dims)))

    @property
    def activation_elements(self) -> int:
        """Activation elements that one run reads and writes."""
        sizes = dict(self.dims)
        return int(FORMS[self.op].reads(sizes)) + int(FORMS[self.op].writes(sizes))

    def bytes(self, dtype: str) -> int:
        """Bytes read and written, all runs together, at the op's own dtype or else at `dtype`."""
        elements = self.activation_elements + int(FORMS[self.op].weights(dict(self.dims)))
        return self.count * elements * dtype_bytes(self.dtype or dtype)


@dataclass(frozen=True)
class Workload:
    """The ops of one forward pass, equal ones merged (their counts added, first one's place), and what it
    keeps in memory.

    `weight_elements` parameters; `activation_elements` the most that are live at once; `kv_elements` keys and
    values kept for decoding. Elements, not bytes: the dtype is the device's caller's choice.
    """

    ops: tuple[OpCost, ...] = ()
    weight_elements: int = 0
    activation_elements: int = 0
    kv_elements: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ops", _merged(self.ops))
        for name in ("weight_elements", "activation_elements", "kv_elements"):
            if getattr(self, name) < 0:
                raise WorkloadError(f"{name} = {getattr(self, name)}, but it counts elements: at least 0")

    @property
    def flops(self) -> int:
        """2 × multiply-adds of the whole pass."""
        return sum(op.flops for op in self.ops)

    def bytes(self, dtype: str) -> int:
        """Bytes that all ops read and write."""
        return sum(op.bytes(dtype) for op in self.ops)

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of the parameters."""
        return self.weight_elements * dtype_bytes(dtype)

    def memory_bytes(self, dtype: str) -> int:
        """Bytes needed to run it: parameters + keys and values + the largest live activations; no allocator's
        slack.
        """
        return (self.weight_elements + self.kv_elements + self.activation_elements) * dtype_bytes(dtype)

    def __add__(self, other: Workload) -> Workload:
        """Both, one after the other: ops, weights and key-value caches add up, live activations take the
        larger.
        """
        return Workload(
            self.ops + other.ops,
            self.weight_elements + other.weight_elements,
            max(self.activation_elements, other.activation_elements),
            self.kv_elements + other.kv_elements,
        )


def _merged(ops: Iterable[OpCost]) -> tuple[OpCost, ...]:
    first: dict[tuple[str, tuple[tuple[str, int], ...], str | None], OpCost] = {}
    for op in ops:
        seen = first.get(op.key)
        first[op.key] = op if seen is None else OpCost(op.op, op.dims, op.dtype, seen.count + op.count, op.label)
    return tuple(first.values())
