"""One record behind flags, TOML and keywords."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from archrank.search.cli import build_parser
from archrank.search.cli._options import config_from
from archrank.search.config import ConfigError, RunConfig, read_toml, write_toml


def test_a_file_says_what_the_flags_say_and_flags_win(tmp_path: Path) -> None:
    config = RunConfig(hw=("a100", "h100"), trials=7, lr=3e-4, gradient_checkpointing=True, where=("loss <= 1",))
    (tmp_path / "c.toml").write_text(write_toml(config))
    assert RunConfig(**read_toml(tmp_path / "c.toml")) == config  # type: ignore[arg-type]
    given = build_parser().parse_args(["run", "--config", str(tmp_path / "c.toml"), "--trials", "9", "--hw", "t4"])
    assert config_from(given) == RunConfig(
        hw=("t4",), trials=9, lr=3e-4, gradient_checkpointing=True, where=("loss <= 1",)
    )


def test_every_field_is_a_flag() -> None:
    for f in fields(RunConfig):
        if f.name != "space":
            assert f.metadata["help"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trials = 2.5", "trials = 2.5 must be int"),
        ("hw = [1]", "hw = 1 must be a list of str"),
        ("gradient_checkpointing = 1", "gradient_checkpointing = 1 must be bool"),
        ("trials = true", "trials = True must be int"),
        ("save-minute = 1", "unknown key 'save-minute'; did you mean save_minutes"),
        ("a = = 2", "is not TOML"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match=message) as told:
        read_toml(tmp_path / "c.toml")
    assert str(tmp_path / "c.toml") in str(told.value)
