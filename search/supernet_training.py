"""The supernet of a rank run, trained by several processes: `torchrun … -m archrank.search.supernet_training RUN`.

`search run --processes N` starts this on one machine. Over several machines, start it on each with the same RUN on a
shared file system, then `search resume RUN` goes on from the supernet.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from archrank.search.base_phases import HEAD_FILE, load_head
from archrank.search.config import RunConfig, read_toml
from archrank.search.errors import RunError, exit_code_of
from archrank.search.interrupt import Interrupts
from archrank.search.job import Job, prepare
from archrank.search.progress import open_progress
from archrank.supernet.adapters.lora import LoRA
from archrank.supernet.checkpoint import Checkpoint, adapter_tensors, save_tensors
from archrank.supernet.first_update import start_from_first_update
from archrank.supernet.parallel import ReadOnlyCheckpoint, join_processes, leave_processes
from archrank.supernet.rounding import to_allowed
from archrank.supernet.training import TrainPlan, train

__all__ = ["SUPERNET_FILE", "keep_supernet", "launch", "main", "make_nested", "start_store", "train_share"]

FIRST_UPDATE_BATCHES = 2
"""Ponkshe et al. take about 50 samples."""
SUPERNET_FILE = "supernet.safetensors"


def train_share(job: Job, path: Path, *, first: bool, purpose: str = "supernet") -> None:
    """The part of one process in the training; the first process writes checkpoints and the supernet."""
    config = job.config
    assert config.lr is not None
    start_store(job)
    kind = Checkpoint if first else ReadOnlyCheckpoint
    steps = round(job.policy.runs * job.train_steps)
    plan = TrainPlan(steps, config.lr, seed=config.seed, accumulate=config.accumulate)
    with Interrupts() as stop, open_progress(first) as progress:
        progress.phase(purpose, total=plan.steps, unit="steps")

        def tick(done: int, loss: float) -> None:
            progress.update(done, best=loss)
            stop.check()

        train(
            job.net,
            job.batches(config.seed),
            job.loss,
            plan,
            policy=job.policy,
            validation=job.validation_batches,
            checkpoint=kind(path / "checkpoint.safetensors", purpose, 60 * config.save_minutes),
            tick=tick,
        )
    if first:
        keep_supernet(job, path)


def start_store(job: Job) -> None:
    """LoRA-XS's bases and cores from the first update (LoRA-SB), the same each time; other families start at 0."""
    if job.family != "lora_xs":
        return
    config, device = job.config, next(job.base.model.parameters()).device
    assert config.lr is not None
    batches = [job.batches(config.seed)(step)[0] for step in range(FIRST_UPDATE_BATCHES)]
    moved = [{name: t.to(device) for name, t in batch.items()} for batch in batches]
    start_from_first_update(job.net, moved, job.loss, config.lr)


def keep_supernet(job: Job, path: Path) -> None:
    """The trained store as prefixes, in `supernet.safetensors`, with the step at which gates collapsed."""
    make_nested(job)
    meta = {"r_max": job.net.r_max, "collapse": job.policy.collapsed}
    save_tensors(path / SUPERNET_FILE, adapter_tensors(job.net.items()), meta)


def make_nested(job: Job) -> None:
    """Of a policy whose prefixes are not: what it keeps, in canonical form, whose prefixes are the best approximations
    of each rank. RunError where it keeps nothing.
    """
    net, policy, config = job.net, job.policy, job.config
    if policy.nested:
        return
    policy.observe(net, [job.batches(config.seed)(step)[0] for step in range(4)])
    kept = policy.factors(net)
    if not kept:
        raise RunError(
            f"gate collapse: policy {config.policy} has set every gate to 0: nothing is left to search in; a "
            "smaller --lr or more --train-steps is the remedy"
        )
    for name, (A, B) in to_allowed(kept, net.shapes, [max(net.largest.values())], config.seed).items():
        adapter = net.adapters[net.names.index(name)]
        assert isinstance(adapter, LoRA)
        adapter.A.data.copy_(A)
        adapter.B.data.copy_(B / adapter.scale)


def launch(path: Path, processes: int, pause: Callable[[], None]) -> None:
    """Trains by that many processes of this machine; RunError where they fail. `pause` may raise: they are stopped."""
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    call += ["-m", "archrank.search.supernet_training", str(path)]
    running = subprocess.Popen(call, stdout=2)  # stdout is for answers
    try:
        while running.poll() is None:
            pause()
            try:
                running.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
    finally:
        if running.poll() is None:
            running.terminate()
            running.wait()
    if running.returncode:
        raise RunError(
            f"supernet: {processes} processes ended with code {running.returncode} (their messages stand above); what "
            f"was trained is kept, go on with: search resume {path}"
        )


def main() -> int:
    """One of the processes; exit codes as `search run`."""
    path = Path(sys.argv[1])
    values = {**read_toml(path / "config.toml"), "space": str(path / "space.lark"), "out": str(path)}
    config = RunConfig(**values)  # type: ignore[arg-type]
    number, _ = join_processes("cpu" if config.device == "cpu" else "cuda")
    if config.device != "cpu":
        import torch

        config = replace(config, device=f"cuda:{torch.cuda.current_device()}")
    job = prepare(config)
    if (path / HEAD_FILE).exists():
        load_head(path, job.base)
    try:
        train_share(job, path, first=number == 0)
    except Exception as error:
        code = exit_code_of(error)
        if code is None:
            raise
        print(f"supernet, process {number}: {error}", file=sys.stderr)
        return code
    leave_processes()
    return 0


if __name__ == "__main__":
    sys.exit(main())
