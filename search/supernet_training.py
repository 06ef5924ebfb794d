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

from archrank.search.config import RunConfig, read_toml
from archrank.search.errors import RunError, exit_code_of
from archrank.search.interrupt import Interrupts
from archrank.search.job import SUPERNET_RUNS, Job, new_parameters, prepare
from archrank.search.progress import open_progress
from archrank.supernet.checkpoint import Checkpoint, adapter_tensors, load_tensors, save_tensors
from archrank.supernet.parallel import ReadOnlyCheckpoint, Share, share_of_this_process
from archrank.supernet.training import TrainPlan, train

__all__ = ["launch", "main", "train_share"]


def train_share(job: Job, path: Path, share: Share, purpose: str = "supernet") -> None:
    """The part of one process in the training; the first process writes checkpoints and the supernet."""
    config = job.config
    assert config.lr is not None
    assert config.batch_size is not None
    first = share.rank == 0
    kind = Checkpoint if first else ReadOnlyCheckpoint
    plan = TrainPlan(SUPERNET_RUNS * job.train_steps, config.lr, seed=config.seed, accumulate=config.accumulate)
    parameters = list(job.net.adapters.parameters())
    with Interrupts() as stop, open_progress(first) as progress, share.summed(parameters, config.batch_size):
        progress.phase(purpose, total=plan.steps, unit="steps")

        def tick(done: int, loss: float) -> None:
            progress.update(done, best=loss)
            stop.check()

        train(
            job.net,
            share.batches(job.batches(config.seed)),
            job.loss,
            plan,
            policy=job.policy,
            checkpoint=kind(path / "checkpoint.safetensors", purpose, 60 * config.save_minutes),
            tick=tick,
        )
    if first:
        save_tensors(path / "supernet.safetensors", adapter_tensors(job.net.items()), {"r_max": job.net.r_max})


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
    share = share_of_this_process("cpu" if config.device == "cpu" else "cuda")
    if config.device != "cpu":
        import torch

        config = replace(config, device=f"cuda:{torch.cuda.current_device()}")
    job = prepare(config)
    head = path / "head.safetensors"
    if head.exists():
        tensors, _ = load_tensors(head)
        for i, p in enumerate(new_parameters(job.base)):
            p.data.copy_(tensors[f"p{i}"])
    try:
        train_share(job, path, share)
    except Exception as error:
        code = exit_code_of(error)
        if code is None:
            raise
        print(f"supernet, process {share.rank}: {error}", file=sys.stderr)
        return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
