"""A policy that relaxes traces a front by itself: one training, read at many points on the way.

The chain trains runs × `--train-steps` steps at a constant rate; from half of it on, at `--trials` even steps, what the
policy would take home is brought to ranks of the space and kept in `RUN/traced/`. When the chain is done each point is
evaluated and told as an `inherited` trial, with its own weights in `RUN/adapters/`: the log, re-ranking, finalists and
the report are those of any run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from archrank.search.errors import RunError
from archrank.supernet.adapters.lora import LoRA
from archrank.supernet.checkpoint import load_tensors, save_tensors
from archrank.supernet.net import Elastic
from archrank.supernet.policies._schedule import DENSE
from archrank.supernet.rounding import to_allowed

if TYPE_CHECKING:
    from archrank.search.job import Job

__all__ = ["Points", "densest", "net_of", "points", "snapshot_steps"]


def snapshot_steps(steps: int, points: int) -> list[int]:
    """Steps done at which the chain is read: from the end of its dense part to its last step, evenly, each once."""
    first = max(1, round(DENSE * steps))
    return sorted({first + round(k * (steps - first) / max(1, points - 1)) for k in range(points)})


class Points:
    """Reads the chain: called after each step, keeps a file for each point, stops where nothing is left."""

    def __init__(self, job: Job, folder: Path, steps: int) -> None:
        self.job, self.folder = job, folder
        self.at = {done: k for k, done in enumerate(snapshot_steps(steps, job.config.trials))}
        self.collapsed: int | None = None

    def __call__(self, done: int) -> bool:
        """Whether to go on."""
        place = self.at.get(done)
        if place is None:
            return True
        net, policy = self.job.net, self.job.policy
        kept = policy.traced(net, done - 1)
        if not kept:
            self.collapsed = done
            if not any(self.folder.glob("*.safetensors")):
                raise RunError(
                    f"gate collapse: after {done} steps, before its first point, policy {self.job.config.policy} has "
                    "set every gate to 0: nothing is left to take home; a smaller --lr or more --train-steps is the "
                    "remedy"
                )
            return False
        factors = to_allowed(kept, net.shapes, self.job.allowed_ranks, self.job.config.seed)
        tensors = {f"{n}.{side}": t for n, pair in factors.items() for side, t in zip("AB", pair, strict=True)}
        save_tensors(self.folder / f"{place:04}.safetensors", tensors, {"step": done})
        return True


def points(job: Job, folder: Path) -> list[tuple[dict[str, int], Elastic]]:
    """({module: rank}, its net) of each point of a finished chain, largest first; equal ranks once, the first of them:
    it was trained least under a penalty.
    """
    found: dict[tuple[tuple[str, int], ...], tuple[dict[str, int], Elastic]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        net = _net(job, load_tensors(file)[0])
        ranks = net.largest
        found.setdefault(tuple(sorted(ranks.items())), (ranks, net))
    return list(found.values())


def net_of(job: Job, file: Path, ranks: Mapping[str, int]) -> Elastic:
    """What a candidate starts from: the point of a traced front where `file` holds one, else a slice of the
    supernet.
    """
    return _net(job, load_tensors(file)[0]) if job.policy.traces and file.exists() else job.net.sliced(ranks)


def densest(job: Job, folder: Path, ranks: Mapping[str, int]) -> Elastic:
    """A configuration cut from the first point of a chain, its dense part, in canonical form: what a reference starts
    from, since the chain's end is spoilt for large ranks.
    """
    tensors = load_tensors(min(folder.glob("*.safetensors")))[0]
    store = {}
    for name, rank in ranks.items():
        whole = {name: (tensors[f"{name}.A"], tensors[f"{name}.B"])} if f"{name}.A" in tensors else {}
        A, B = to_allowed(whole, {name: job.net.shapes[name]}, [rank], job.config.seed)[name]
        store[name] = LoRA.of(A, B)
    return Elastic(job.base.model, store, job.net.space)


def _net(job: Job, tensors: Mapping[str, Tensor]) -> Elastic:
    names = dict.fromkeys(key.rpartition(".")[0] for key in tensors)
    store = {n: LoRA.of(tensors[f"{n}.A"], tensors[f"{n}.B"]) for n in job.net.names if n in names}
    return Elastic(job.base.model, store, job.net.space)
