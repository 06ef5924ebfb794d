"""Flags that several commands share, made from RunConfig so that a flag, a TOML key and a keyword cannot drift
apart.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path

from archrank.search.config import RunConfig, read_toml, value_type

__all__ = ["add_json", "add_run_flags", "add_space", "config_from", "print_json"]


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json: one document on stdout and nothing else there."""
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout; messages go to stderr")


def add_space(parser: argparse.ArgumentParser) -> None:
    """SPACE and what its sentences are made for: --input and --ops, or --base and --target-modules."""
    parser.add_argument("space", metavar="SPACE", help="a .lark file or a shipped name")
    parser.add_argument(
        "--input", metavar="SHAPE", help="of an architecture's input, such as 3x32x32 (default: the file's)"
    )
    parser.add_argument(
        "--ops",
        action="append",
        default=[],
        metavar="FILE",
        help="Python file that defines ops with ar.op (repeatable)",
    )
    add_run_flags(parser, ("base", "target_modules"))


def print_json(value: object) -> None:
    """The document of --json."""
    json.dump(value, sys.stdout, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def add_run_flags(parser: argparse.ArgumentParser, names: tuple[str, ...] | None = None) -> None:
    """The fields of RunConfig as flags, grouped; `names`: only these."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    for f in fields(RunConfig):
        if "group" not in f.metadata or (names is not None and f.name not in names):
            continue
        title = f.metadata["group"]
        group = groups.setdefault(
            title, parser.add_argument_group(title) if names is None else parser.add_argument_group()
        )
        kind, several = value_type(f)
        flag = "--" + f.name.replace("_", "-")
        if kind is bool:
            group.add_argument(
                flag, action="store_true", default=argparse.SUPPRESS, help=f.metadata["help"].replace("%", "%%")
            )
            continue
        letter = {int: "N", float: "X"}.get(kind, "V")
        choices = f.metadata["choices"]
        group.add_argument(
            flag,
            type=kind,
            action="append" if several else "store",
            metavar="|".join(choices) if choices else letter,
            default=argparse.SUPPRESS,
            help=(f.metadata["help"] + _default_note(f.default)).replace("%", "%%"),
        )


def _default_note(default: object) -> str:
    return "" if default in (None, (), False) else f" (default: {default})".replace("%", "%%")


def config_from(args: argparse.Namespace) -> RunConfig:
    """--config's keys, then the flags over them."""
    values = read_toml(Path(args.config)) if getattr(args, "config", None) else {}
    given = vars(args)
    for f in fields(RunConfig):
        if f.name in given and given[f.name] is not None:
            value = given[f.name]
            values[f.name] = tuple(value) if isinstance(value, list) else value
    return RunConfig(**values)  # type: ignore[arg-type]
