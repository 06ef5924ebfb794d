"""What a run was asked for: one record behind the flags, the TOML file and the keywords of `archrank.run`."""

from __future__ import annotations

import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path

from archrank.grammar import nearest, number

__all__ = ["PROPOSED", "ConfigError", "RunConfig", "read_share", "read_toml", "write_toml"]

PROPOSED = 16
"""Candidates proposed at a time where a cluster evaluates them."""


class ConfigError(ValueError):
    """A flag, a key or a combination of them that cannot be run."""


def _flag(default: object, group: str, help: str, choices: tuple[str, ...] = ()) -> typing.Any:
    meta = {"group": group, "help": help, "choices": choices}
    return field(default=default, metadata=meta)


@dataclass(frozen=True, slots=True)
class RunConfig:
    """One run. A field is a flag (`train_steps` is `--train-steps`), a TOML key and a keyword of `archrank.run`.

    None means that the run chooses and writes what it chose to RUN/config.toml.
    """

    space: str = "lora_ranks"
    base: str | None = _flag(None, "what", "model folder or hub name (default: a tiny ViT that ships with archrank)")
    data: str | None = _flag(None, "what", "data folder, file, hub name or built-in name (default: the base's own)")
    task: str | None = _flag(
        None, "what", "inferred where it can be", ("image-classification", "text-classification", "causal-lm")
    )
    target_modules: str | None = _flag(
        None, "what", "all-linear, a regular expression for the full name, or suffixes: q,v"
    )
    input: str | None = _flag(
        None, "what", "image size of an architecture space, as 3x32x32 (default: the data's, else the file's)"
    )
    ops: tuple[str, ...] = _flag((), "what", "Python file that defines ops with ar.op (repeatable)")
    columns: tuple[str, ...] = _flag(
        (), "what", "a column's role, as text=sentence (repeatable; default: found by name)"
    )
    max_length: int = _flag(128, "what", "tokens kept of a text")
    hw: tuple[str, ...] = _flag((), "for whom", "device to price for, or a .toml profile (repeatable)")
    serve_batch: int = _flag(1, "for whom", "rows served at once")
    serve_seq: int | None = _flag(None, "for whom", "tokens of a served row (text; default: --max-length)")
    serve_dtype: str | None = _flag(None, "for whom", "fp32, fp16, bf16, … (default: bf16 where the device has it)")
    deploy: str = _flag("merged", "for whom", "how the adapter is served", ("merged", "unmerged", "vllm"))
    objective: tuple[str, ...] = _flag((), "wanted", "NAME[:min|:max] (repeatable; default: loss and adapter_params)")
    where: tuple[str, ...] = _flag((), "wanted", '"NAME <= VALUE" (repeatable): 2M and 3.5k are numbers')
    strategy: str = _flag("surrogate", "how", "see `search list strategies`")
    policy: str | None = _flag(
        None,
        "how",
        "how the supernet trains, or what traces a front: `search list policies` (default: full for LoRA, else mixed)",
    )
    distill: str = _flag(
        "auto", "how", "finalists also learn the answers of the trained r_max adapter (policy full)", ("auto", "off")
    )
    rank_group: tuple[str, ...] = _flag(
        (), "how", "--policy nls: modules of a layer that share a rank, as q,k,v (repeatable; the others stand alone)"
    )
    trials: int = _flag(200, "how", "candidates priced with the supernet")
    evaluate: str = _flag(
        "inherited",
        "how",
        "architectures: start each candidate from the shared weights, or train each from scratch",
        ("inherited", "train"),
    )
    tune: str = _flag(
        "adapters", "how", "encoders: train the adapters alone, or all weights with them", ("adapters", "all")
    )
    shrink_rounds: int = _flag(
        2, "how", "ensembles: times that the worst options leave the space while the supernet trains"
    )
    diversity_weight: float = _flag(
        1.0, "how", "ensembles: weight of the members' diversity (nats) against the loss when options are scored"
    )
    reduction: int = _flag(
        3, "how", "--evaluate train: of each rung of training lengths the best 1/N train N times as long (1: all do)"
    )
    eval_rows: int = _flag(512, "how", "validation rows that price a candidate; later stages read all")
    race: str = _flag(
        "auto",
        "how",
        "stop a candidate once others are better for certain: on, off, or where the strategy looks at no values",
        ("auto", "on", "off"),
    )
    finalists: int = _flag(6, "how", "candidates that get the full fine-tune")
    final_seeds: int = _flag(1, "how", "seeds of the full fine-tune; the verdict's interval is over rows and seeds")
    train_steps: int | None = _flag(None, "how", "steps of one full fine-tune; the supernet trains twice as long")
    batch_size: int | None = _flag(None, "how", "rows of a training step")
    lr: float | None = _flag(None, "how", "peak learning rate of AdamW")
    accumulate: int = _flag(1, "how", "parts a training batch is split into (gradient accumulation)")
    gradient_checkpointing: bool = _flag(
        False, "how", "recompute activations in the backward pass: less memory, more time"
    )
    trial_timeout: float | None = _flag(
        None, "how", "seconds after which a candidate's training is failed, and a silent worker of --ray replaced"
    )
    seed: int = _flag(0, "how", "of every random choice")
    out: str | None = _flag(None, "where", "run folder (default: the next free runs/N)")
    storage: str | None = _flag(None, "where", "Optuna storage URL that finished trials are copied to")
    report_to: str = _flag(
        "none", "where", "report finished trials to this too", ("none", "tensorboard", "mlflow", "wandb")
    )
    write_space: str | None = _flag(None, "where", "write the space with probabilities learned from the best trials")
    device: str = _flag("cpu", "where", "cpu, cuda, cuda:0")
    threads: int | None = _flag(None, "where", "CPU threads (default: 1 for a tiny base, else all cores)")
    compute_dtype: str = _flag("fp32", "where", "of the base; adapters stay fp32", ("fp32", "bf16"))
    evaluate_dtype: str | None = _flag(
        None,
        "where",
        "of the base while candidates are priced (default: bf16 where the CPU has AMX and the base is not tiny)",
        ("fp32", "bf16"),
    )
    processes: int = _flag(
        1, "where", "processes of this machine that train a rank supernet together, one a GPU with --device cuda"
    )
    ray: str | None = _flag(
        None, "where", "auto (starts a cluster where none runs) or HOST:PORT of a Ray cluster that evaluates candidates"
    )
    workers: int | None = _flag(None, "where", "with --ray: processes that evaluate (default: as many as fit)")
    worker_cpus: float = _flag(1.0, "where", "CPUs of a worker; fractions share one")
    worker_gpus: float | None = _flag(
        None, "where", "GPUs of a worker; fractions share one (default: 1 with --device cuda, else 0)"
    )
    propose: int | None = _flag(
        None, "where", "candidates proposed at a time, for any number of workers (default: 1; with --ray 16)"
    )
    asynchronous: bool = _flag(
        False, "where", "with --ray: propose whenever a worker is free; faster, and no two runs alike"
    )
    save_minutes: float = _flag(5.0, "where", "training time that a crash may cost")
    max_hours: float | None = _flag(None, "where", "stop, resumable, after this long")
    within: str = _flag("0.5%", "wanted", "the verdict: how far from r_max the smallest configuration may be")

    def __post_init__(self) -> None:
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
        read_share("--within", self.within)
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise ConfigError(f"--lr {self.lr}: must be above 0")
        if self.trial_timeout is not None and not self.trial_timeout > 0:
            raise ConfigError(f"--trial-timeout {self.trial_timeout}: must be above 0")
        if self.save_minutes <= 0:
            raise ConfigError(f"--save-minutes {self.save_minutes}: must be above 0")
        if self.ray is None:
            for name in ("workers", "worker_gpus", "asynchronous"):
                if getattr(self, name):
                    raise ConfigError(
                        f"--{name.replace('_', '-')} is for runs on a cluster: add --ray auto, or leave it out"
                    )
        if self.race == "on" and self.batch > 1:
            raise ConfigError(
                "--race on: a candidate is stopped by those before it, so one is proposed at a time; leave out --race "
                f"or {'--ray' if self.ray else '--propose'}"
            )
        if not 0 < self.worker_cpus < float("inf"):
            raise ConfigError(f"--worker-cpus {self.worker_cpus}: must be above 0")
        for f in fields(self):
            choices = f.metadata.get("choices", ())
            value = getattr(self, f.name)
            if choices and value is not None and value not in choices:
                near = nearest(str(value), list(choices))
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ConfigError(f"--{f.name.replace('_', '-')} {value}: must be one of {', '.join(choices)}{hint}")

    @property
    def batch(self) -> int:
        """Candidates proposed at a time. Never a function of the number of workers: their number must not change what
        is found.
        """
        return self.propose or (1 if self.ray is None else PROPOSED)

    @property
    def gpus_of_a_worker(self) -> float:
        """Fractions share one."""
        return (1.0 if self.device.startswith("cuda") else 0.0) if self.worker_gpus is None else self.worker_gpus

    def with_defaults(self, given: Mapping[str, object]) -> RunConfig:
        """A copy with the fields of `given` filled in where they are None here."""
        return replace(self, **{k: v for k, v in given.items() if getattr(self, k) is None})  # type: ignore[arg-type]


_AT_LEAST: dict[str, float] = {
    "shrink_rounds": 0,
    "diversity_weight": 0,
    "serve_batch": 1,
    "serve_seq": 1,
    "max_length": 2,
    "trials": 1,
    "reduction": 1,
    "eval_rows": 1,
    "finalists": 0,
    "final_seeds": 1,
    "train_steps": 1,
    "batch_size": 1,
    "accumulate": 1,
    "threads": 1,
    "seed": 0,
    "max_hours": 0,
    "processes": 1,
    "workers": 1,
    "worker_gpus": 0,
    "propose": 1,
}


def read_share(flag: str, text: str) -> float:
    """`0.5%` or `.005` as a fraction; ConfigError outside 0 … 100 %."""
    try:
        share = number(text)
    except ValueError as error:
        raise ConfigError(f"{flag} {text}: {error}") from None
    if not 0 <= share <= 1:
        raise ConfigError(f"{flag} {text}: must be between 0% and 100%")
    return share


def value_type(f: Field[typing.Any]) -> tuple[type, bool]:
    """(type of one value, may it stand several times) of a field."""
    hint = typing.get_type_hints(RunConfig)[f.name]
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True
    if isinstance(hint, types.UnionType):
        hint = next(a for a in typing.get_args(hint) if a is not types.NoneType)
    return hint, False


def read_toml(path: Path) -> dict[str, object]:
    """The keys of a TOML file, checked against RunConfig; ConfigError names file, key and near names."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    try:
        loaded = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None
    return {key.replace("-", "_"): _checked(path, key, value) for key, value in loaded.items()}


def _checked(path: Path, key: str, value: object) -> object:
    known = {f.name: f for f in fields(RunConfig)}
    f = known.get(key.replace("-", "_"))
    if f is None:
        near = nearest(key.replace("-", "_"), list(known))
        hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
        raise ConfigError(f"{path}: unknown key {key!r}; {hint}")
    kind, several = value_type(f)
    values = value if several and isinstance(value, list) else [value]
    numbers = (int, float) if kind is float else (kind,)
    for v in values:
        if not isinstance(v, numbers) or (isinstance(v, bool) and kind is not bool):
            raise ConfigError(f"{path}: {key} = {v!r} must be {'a list of ' if several else ''}{kind.__name__}")
    return tuple(values) if several else value


def write_toml(config: RunConfig) -> str:
    """The text of RUN/config.toml: all that is not None."""
    import tomli_w

    values = {f.name: getattr(config, f.name) for f in fields(config)}
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v is not None}
    return "# archrank: `search run --config THIS` repeats the run\n" + tomli_w.dumps(plain)
