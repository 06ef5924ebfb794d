"""A run read back from its folder: its trials, its front, its sub-networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archrank import grammar
from archrank.grammar import ops
from archrank.search.config import ConfigError, RunConfig, read_share, read_toml
from archrank.search.counts import configurations_seen, seen_line
from archrank.search.errors import NothingFeasible
from archrank.search.expression import parse_where
from archrank.search.objective import Objective, parse_objective
from archrank.search.pareto import ParetoFront, Scale, latest
from archrank.search.report.data import Seen
from archrank.search.report.text import number
from archrank.search.storage import Contents, read_log
from archrank.search.tables import front_table
from archrank.search.trial import Trial

if TYPE_CHECKING:
    from archrank.search.architecture_export import TakenNetwork
    from archrank.supernet.cut_network import CutNetwork
    from archrank.supernet.ensembles import Ensemble
    from archrank.supernet.subnetwork import SubNetwork

__all__ = ["Run", "default_form", "open_run"]


def default_form(run: Run) -> str:
    """The form of `search extract --as` where none is asked for."""
    return {"architectures": "torch", "encoders": "merged", "ensembles": "merged"}.get(run.kind, "peft")


def open_run(path: str | Path) -> Run:
    """The run in a folder, finished or not; ConfigError when there is none."""
    folder = Path(path)
    if not (folder / "config.toml").exists():
        raise ConfigError(f"{folder}: no run there (no config.toml)")
    if not (folder / "trials.jsonl").exists():
        raise ConfigError(f"{folder}: nothing is finished yet; go on with `search resume {folder}`")
    values = read_toml(folder / "config.toml")
    return Run(folder, RunConfig(**values), read_log(folder / "trials.jsonl"))  # type: ignore[arg-type]


def _kept(choices: Iterable[grammar.LayerChoice]) -> str:
    return " ".join(f"{c.heads}h/{c.ffn}" if c.kept else "–" for c in choices)


@dataclass(frozen=True)
class Run:
    """What `search run` left in a folder."""

    path: Path
    config: RunConfig
    contents: Contents
    given: grammar.Space | None = None
    """The space of a run that has no folder."""

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every finished evaluation, in the order of the log."""
        return tuple(self.contents.trials)

    @cached_property
    def objectives(self) -> tuple[Objective, ...]:
        """What was searched for, in the user's order; constants left out."""
        return tuple(parse_objective(text) for text in self.header["objectives"])

    @property
    def header(self) -> Mapping[str, Any]:
        """The first line of the log."""
        return self.contents.header

    @property
    def labels(self) -> list[str]:
        """The classes' names; [] for a causal language model."""
        return [str(name) for name in self.header["labels"]]

    @property
    def warnings(self) -> list[str]:
        """Damaged lines of the log, each by its number, and a collapse of the gates."""
        told = [str(e["told"]) for e in self.contents.events if e.get("event") == "collapse" and "told" in e]
        return [*(str(damage) for damage in self.contents.damage), *told]

    @property
    def finished(self) -> bool:
        """Whether every phase is done."""
        return any(e.get("event") == "end" for e in self.contents.events)

    @property
    def seconds(self) -> float:
        """Wall time over all sessions."""
        return sum(float(str(e["seconds"])) for e in self.contents.events if e.get("event") == "session")

    def event(self, kind: str) -> Mapping[str, Any]:
        """The last event of a kind; {} where there is none."""
        return next((e for e in reversed(self.contents.events) if e.get("event") == kind), {})

    @cached_property
    def scale(self) -> Scale | None:
        """The axes and the reference point of the run's hypervolume."""
        saved = self.event("reference")
        return Scale.from_json(self.objectives, saved) if saved else None

    def front(self, where: str | Sequence[str] = ()) -> ParetoFront:
        """What can be taken home now: each candidate at its latest stage, dominated ones left out."""
        names = list(dict.fromkeys(name for t in self.trials for name in t.values)) or None
        texts = [where] if isinstance(where, str) else where
        constraints = [c for text in (*self.config.where, *texts) for c in parse_where(text, names)]
        return ParetoFront.of(latest(self.trials), self.objectives, constraints)

    @property
    def kind(self) -> str:
        """What its candidates are: `adapters` of a base, `architectures`, `encoders` cut from a base, `ensembles` of
        such, or whatever a user's `function` prices (`archrank.optimize`).
        """
        return str(self.header.get("kind", "adapters"))

    @property
    def is_architecture_run(self) -> bool:
        """Whether its candidates are networks and not parts of a base."""
        return self.kind == "architectures"

    @property
    def on_base(self) -> bool:
        """Whether its candidates are parts of a base, described by what they do to its modules."""
        return self.kind not in ("architectures", "function")

    @cached_property
    def space(self) -> grammar.Space:
        """The space as it was searched: the run's own copy, bound to the base's modules."""
        if self.given is not None:
            return self.given
        if self.kind == "function" and not self.header["sites"]:
            space = grammar.load(str(self.path / "space.lark"))
            return space.with_input(self.header["input"]) if self.header["input"] else space
        if self.is_architecture_run:
            for file in self.config.ops:
                ops.load_file(file)
            return grammar.load(str(self.path / "space.lark")).with_input(self.header["input"])
        if self.kind in ("encoders", "ensembles"):
            layers = {name: grammar.EncoderLayer(*sizes) for name, sizes in self.header["layers"].items()}
            return grammar.load(str(self.path / "space.lark")).bind_layers(layers, self.header["length"])
        sites = {name: (shape[0], shape[1]) for name, shape in self.header["sites"].items()}
        return grammar.load(str(self.path / "space.lark")).bind(sites)

    def choices(self, trial: Trial) -> dict[str, grammar.LayerChoice]:
        """What a trial of an encoder run does to each layer."""
        return self.space.layer_choices(self.space.parse(trial.text))

    def members(self, trial: Trial) -> grammar.EnsembleChoice:
        """The members of a trial of an ensemble run."""
        return self.space.ensemble_choices(self.space.parse(trial.text))

    @property
    def modules(self) -> list[str]:
        """What can carry an adapter, in model order."""
        if self.kind == "encoders":
            return [f"{name}.{role}" for name in self.header["layers"] for role in ("q", "k", "v", "o", "up", "down")]
        return list(self.header["sites"])

    def ranks(self, trial: Trial) -> dict[str, int]:
        """{module: rank} of a trial, modules left alone absent."""
        if self.kind == "encoders":
            return {f"{n}.{role}": r for n, c in self.choices(trial).items() if c.kept for role, r in c.ranks}
        return {name: adapter.rank for name, adapter in self.space.adapters(self.space.parse(trial.text)).items()}

    def trial(self, number: int) -> Trial:
        """A trial by its id; ConfigError when there is none."""
        found = next((t for t in self.trials if t.id == number), None)
        if found is None:
            raise ConfigError(
                f"{self.path}: no trial {number}; ids run from 0 to {max((t.id for t in self.trials), default=-1)}"
            )
        return found

    def pick(self, which: str, where: str | Sequence[str] = ()) -> Trial:
        """`knee`, `best:OBJECTIVE`, `within:0.5%` of the front under `where`, or any finished trial by its id."""
        if which.isdigit():
            return self.trial(int(which))
        if which.startswith("within:") and not self.is_architecture_run and (found := self._shown_within(which, where)):
            return found
        front = self.front(where)
        if not len(front):
            asked = " and ".join([*self.config.where, *([where] if isinstance(where, str) else where)])
            raise NothingFeasible(f"no finished trial meets {asked or 'the run'}: there is nothing to extract")
        return front.pick(which)

    def _shown_within(self, which: str, where: str | Sequence[str]) -> Trial | None:
        """The smallest finalist whose paired interval stays within the share of r_max, as the verdict has it; None
        where none was trained, NothingFeasible where none that meets `where` does.
        """
        from archrank.search.verdict import compared, within_share

        share = read_share("--pick within", which.removeprefix("within:"))
        texts = [where] if isinstance(where, str) else where
        asked = [c for text in texts for c in parse_where(text)]
        trained = compared(self)
        found = [c for c in trained if all(a.name in c.trial.values and a.holds(c.trial.values) for a in asked)]
        best = within_share(found, share)
        if trained and best is None:
            near = min(found, key=lambda c: c.high, default=None)
            nearest = (
                f"the nearest, trial {near.trial.id}, by {near.low:+.1%} … {near.high:+.1%}" if near else "none does"
            )
            meeting = f" that meets {' and '.join(map(str, asked))}" if asked else ""
            raise NothingFeasible(
                f"--pick {which}: of {len(trained)} finalists none{meeting} is shown to stay so near to r_max "
                f"({nearest}); loosen it, or pick knee"
            )
        return best.trial if best else None

    @cached_property
    def verdict(self) -> str:
        """One sentence: what the front offers, in figures."""
        from archrank.search.summary import verdict

        return verdict(self)

    @property
    def seen(self) -> list[Seen]:
        """How many configurations each method saw, stage by stage."""
        return configurations_seen(self)

    def records(self, trials: Sequence[Trial] | ParetoFront) -> list[dict[str, Any]]:
        """Trials for people to read: without the values that are the same for every candidate."""
        constants = self.header["constants"]
        records = [t.to_json() for t in trials]
        return [
            {**r, "values": {n: v for n, v in t.values.items() if n not in constants}}
            for r, t in zip(records, trials, strict=True)
        ]

    def describe(self, trial: Trial) -> str:
        """How many modules carry which rank: `7 of 18: r1×4 r2×3`; of an encoder what each layer keeps, such as
        `12h/1536 – 6h/768`, heads and FFN channels; of an ensemble the trunk, then each member's own layers.
        """
        if self.kind == "encoders":
            return _kept(self.choices(trial).values())
        if self.kind == "ensembles":
            choice = self.members(trial)
            shared = list(choice.members[0].values())[: choice.split]
            own = [_kept(list(member.values())[choice.split :]) for member in choice.members]
            return " | ".join([_kept(shared), *(part for part in own if part)])
        ranks = self.ranks(trial)
        counts = Counter(ranks.values())
        shown = " ".join(f"r{r}×{n}" for r, n in sorted(counts.items()))
        return f"{len(ranks)} of {len(self.header['sites'])}" + (f": {shown}" if shown else "")

    def table(self, front: ParetoFront) -> str:
        """The front as text, the stage of every value shown; what is the same for every candidate stands below it,
        once.
        """
        constants = self.header["constants"]
        rows = self.records(front)
        described = {t.id: self.describe(t) for t in front} if self.on_base else None
        axes = [(o.name, o.direction, o.unit) for o in self.objectives]
        heading = "layers" if self.kind in ("encoders", "ensembles") else "adapters"
        text = front_table(rows, axes, described=described, description=heading) + "\n"
        if constants:
            told = ", ".join(f"{name} {number(value)}" for name, value in constants.items())
            text += f"\nthe same for every candidate ({self.config.deploy}, {self.config.serve_dtype}): {told}\n"
        if told := seen_line(self.seen):
            text += f"\n{told}\n"
        return text

    def _repr_html_(self) -> str:
        """How far it is, and its front, in a notebook."""
        from archrank.search.notebook import run_html

        return run_html(self)

    def extract(self, trial: Trial | int) -> SubNetwork | TakenNetwork | CutNetwork | Ensemble:
        """A trial's sub-network with the weights that its values were measured with.

        Of an architecture search a network: a finalist's with its trained weights, any other's with the shared weights
        as the search left them.
        """
        if self.kind == "function":
            raise ConfigError(f"{self.path}: a run of archrank.optimize has no weights; take the trial's sentence")
        if self.is_architecture_run:
            from archrank.search.architecture_export import extract_network

            return extract_network(self, trial)
        if self.kind == "encoders":
            from archrank.search.encoder_export import extract_encoder

            return extract_encoder(self, trial)
        if self.kind == "ensembles":
            from archrank.search.ensemble_export import extract_ensemble

            return extract_ensemble(self, trial)
        from archrank.search.export import extract

        return extract(self, trial)
