"""Training state as one safetensors file, replaced in one step: a reader sees the old state or the new one, never half
of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn, optim

__all__ = ["Checkpoint", "adapter_tensors", "load_adapters", "load_tensors", "save_tensors"]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, object]) -> None:
    """Writes beside `path`, syncs, then renames over it; OSError (disk full) leaves the old file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    try:
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
            fresh,
            metadata={"archrank": json.dumps(dict(meta))},
        )
        with fresh.open("rb+") as file:
            os.fsync(file.fileno())
        fresh.replace(path)
    except SafetensorError as error:
        fresh.unlink(missing_ok=True)
        raise OSError(f"cannot write {path}: {error}") from error
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The tensors and the meta data of `save_tensors`."""
    with safe_open(path, framework="pt") as file:
        meta = json.loads((file.metadata() or {}).get("archrank", "{}"))
        return {key: file.get_tensor(key) for key in file.keys()}, meta  # noqa: SIM118


def adapter_tensors(named: Iterable[tuple[str, nn.Module]]) -> dict[str, Tensor]:
    """{module.PARAMETER: tensor} of adapters by module name."""
    return {f"{name}.{key}": value for name, adapter in named for key, value in adapter.state_dict().items()}


def load_adapters(named: Iterable[tuple[str, nn.Module]], tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `adapter_tensors`; a missing or misshapen tensor raises RuntimeError or KeyError."""
    for name, adapter in named:
        adapter.load_state_dict({key: tensors[f"{name}.{key}"] for key in adapter.state_dict()})


@dataclass(frozen=True)
class Checkpoint:
    """Where one training keeps its state, and for which training it is: a file of another purpose is not taken up."""

    path: Path
    purpose: str
    every_seconds: float

    def save(
        self,
        step: int,
        parameters: Sequence[Tensor],
        optimizer: optim.Optimizer,
        seconds: float,
        extra: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Parameters, Adam's moments, the step (random numbers and the data position follow from it), the seconds
        spent, and `extra` (a policy's gates).
        """
        tensors: dict[str, Tensor] = {}
        for i, p in enumerate(parameters):
            tensors[f"p{i}"] = p
            for key, value in optimizer.state.get(p, {}).items():
                tensors[f"p{i}.{key}"] = value
        tensors |= {f"extra.{key}": value for key, value in (extra or {}).items()}
        save_tensors(self.path, tensors, {"purpose": self.purpose, "step": step, "seconds": seconds})

    def load(
        self, parameters: Sequence[Tensor], optimizer: optim.Optimizer, extra: Mapping[str, Tensor] | None = None
    ) -> tuple[int, float]:
        """(steps done, seconds spent) after restoring, (0, 0) where there is nothing to restore; `extra` in place."""
        if not self.path.exists():
            return 0, 0.0
        tensors, meta = load_tensors(self.path)
        if meta.get("purpose") != self.purpose:
            return 0, 0.0
        state: dict[int, dict[str, Tensor]] = {}
        for i, p in enumerate(parameters):
            p.data.copy_(tensors[f"p{i}"])
            prefix = f"p{i}."
            state[i] = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
        for key, value in (extra or {}).items():
            value.copy_(tensors[f"extra.{key}"])
        packed = optimizer.state_dict()
        packed["state"] = {i: s for i, s in state.items() if s}
        optimizer.load_state_dict(packed)
        return int(str(meta["step"])), float(str(meta["seconds"]))

    def clear(self) -> None:
        """Removes the file once its training is recorded elsewhere."""
        self.path.unlink(missing_ok=True)
