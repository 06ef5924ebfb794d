"""`search plan`: what a run will cost, before it."""

from __future__ import annotations

import argparse

from archrank.search.cli._options import add_json, add_run_flags, config_from, print_json
from archrank.search.config import ConfigError

SUMMARY = "say what `search run` with these flags would do: targets, phases, time, memory; trains a few timed steps"
EXAMPLES = """
search plan lora_ranks --hw a100
search plan lora_ranks --base ./minilm --data ./sst2 --trials 200 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of run."""
    parser.add_argument("space", nargs="?", metavar="SPACE", help="a .lark file or a shipped name")
    parser.add_argument("--config", metavar="FILE", help="TOML file of flags; flags on the command line win")
    add_run_flags(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Writes nothing."""
    if args.space is None and args.config is None:
        raise ConfigError("no SPACE: give a .lark file or a shipped name, e.g. `search plan lora_ranks`")
    from archrank.search.planning import plan_run
    from archrank.search.report.text import duration, number

    plan = plan_run(config_from(args))
    if args.json:
        print_json(plan.to_json())
        return 0
    if plan.note:
        print(plan.note)
    print(f"targets  {len(plan.targets)} modules: {', '.join(list(plan.targets)[:4])}, …")
    print(f"space    {float(plan.space_size):.3g} candidates")
    for phase in plan.phases:
        print(f"{phase.name:<9}{number(phase.steps):>9} steps  {duration(phase.seconds)}")
    print(
        f"in all   {plan.r_max_runs:.1f} r_max runs of {duration(plan.unit_seconds)}: {duration(plan.seconds)}; "
        f"memory about {number(plan.memory_bytes, 'bytes')}, disk about {number(plan.disk_bytes, 'bytes')}"
    )
    return 0
