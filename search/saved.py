"""What a run's folder keeps of its networks, loaded again to take a trial home: the base with its head, the supernet of
an encoder.
"""

from __future__ import annotations

from pathlib import Path

from archrank import grammar
from archrank.search.base_phases import HEAD_FILE, load_head
from archrank.search.config import ConfigError
from archrank.search.encoder_run import IMPORTANCE_FILE, SUPERNET_FILE, load_named
from archrank.search.results import Run
from archrank.search.trial import Trial
from archrank.supernet import tasks
from archrank.supernet.base import Base, load_base
from archrank.supernet.checkpoint import load_tensors
from archrank.supernet.elastic_encoder import ElasticEncoder, elastic_encoder
from archrank.supernet.export import Home
from archrank.supernet.importance import load_order

__all__ = ["done_trial", "home_of", "kept_file", "saved_base", "saved_encoder"]


def done_trial(run: Run, trial: Trial | int) -> Trial:
    """The trial itself, or that of a number; ConfigError where it came to nothing."""
    found = run.trial(trial) if isinstance(trial, int) else trial
    if found.state != "done":
        raise ConfigError(
            f"trial {found.id} is {found.state} ({found.reason or 'no reason told'}): there is nothing to extract"
        )
    return found


def kept_file(path: Path, what: str) -> Path:
    """The path, where something is there; ConfigError otherwise: the `what` cannot be extracted without it."""
    if not path.exists():
        raise ConfigError(
            f"{path}: is gone; without it the {what} cannot be extracted. "
            "`search resume` the run first if it is unfinished"
        )
    return path


def saved_base(run: Run, what: str) -> Base:
    """The base of a run with the head that it trained; ConfigError as `kept_file`."""
    config = run.config
    base = load_base(config.base, config.task, label_names=run.labels, seed=config.seed)
    if base.new_head:
        kept_file(run.path / HEAD_FILE, what)
        load_head(run.path, base)
    return base


def saved_encoder(run: Run, what: str, *, shared_weights: bool) -> tuple[Base, ElasticEncoder]:
    """The base of a run over an encoder's layers and its supernet, ordered by importance; with the weights that all
    candidates share where asked for. ConfigError as `kept_file`.
    """
    base = saved_base(run, what)
    net = elastic_encoder(base.model, grammar.load(str(run.path / "space.lark")), seed=run.config.seed)
    net.order = load_order(*load_tensors(kept_file(run.path / IMPORTANCE_FILE, what)))
    if shared_weights:
        load_named(net, kept_file(run.path / SUPERNET_FILE, what))
    return base, net


def home_of(base: Base) -> Home:
    """What exports say of the base."""
    return Home(base.name_or_path, tasks.load(base.task).peft_task, base.new_head, base.processor)
