"""The shipped sentences of known networks against the networks themselves, built here in plain torch.

Conventions: every convolution has a bias (einspace's `linear` has one), the stem is 3x3 with stride 1 (no pooling), no
classification head and no class token, LeakyReLU in place of ReLU and GELU; batch norm of images, layer norm of rows.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from archrank import grammar, spaces
from archrank.grammar.architecture import Architecture

ROOT = Path(__file__).parents[2]


def generator() -> ModuleType:
    """benchmarks/make_einspace_sentences.py."""
    spec = importlib.util.spec_from_file_location(
        "make_einspace_sentences", ROOT / "benchmarks" / "make_einspace_sentences.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def conv(channels: int, width: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, width, kernel, stride, kernel // 2)


class Basic(nn.Module):
    """ResNet's basic block."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            conv(channels, width, 3, stride), nn.BatchNorm2d(width), nn.LeakyReLU(), conv(width, width, 3),
            nn.BatchNorm2d(width),
        )  # fmt: skip
        plain = stride == 1 and channels == width
        self.short = nn.Identity() if plain else nn.Sequential(conv(channels, width, 1, stride), nn.BatchNorm2d(width))
        self.relu = nn.LeakyReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.path(x) + self.short(x))


class PreActivated(nn.Module):
    """The block of a wide ResNet: norm and activation come first, and are shared where the width changes."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.BatchNorm2d(channels), nn.LeakyReLU())
        self.path = nn.Sequential(
            conv(channels, width, 3, stride), nn.BatchNorm2d(width), nn.LeakyReLU(), conv(width, width, 3)
        )
        self.short = None if channels == width else conv(channels, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        return self.path(y) + (x if self.short is None else self.short(y))


class Encoder(nn.Module):
    """A pre-normed transformer block."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.LeakyReLU(), nn.Linear(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=True)[0]
        return x + self.mlp(self.norm2(x))


class Patches(nn.Module):
    """Non-overlapping patches as rows."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(2).transpose(1, 2)


class Positions(nn.Module):
    """A learned vector for each token."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.encoding = nn.Parameter(torch.zeros(tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.encoding


class Mixer(nn.Module):
    """A block of MLP-Mixer."""

    def __init__(self, tokens: int, width: int, inner_tokens: int, inner_width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(tokens, inner_tokens), nn.LeakyReLU(), nn.Linear(inner_tokens, tokens))
        self.channels = nn.Sequential(nn.Linear(width, inner_width), nn.LeakyReLU(), nn.Linear(inner_width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


def resnet18(side: int) -> nn.Module:
    blocks = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
    return nn.Sequential(
        conv(3, 64, 3), nn.BatchNorm2d(64), nn.LeakyReLU(), *(Basic(*block) for block in [*blocks, (512, 512, 1)])
    )


def wrn16_4(side: int) -> nn.Module:
    blocks = [(16, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1)]
    return nn.Sequential(
        conv(3, 16, 3), *(PreActivated(*block) for block in blocks), nn.BatchNorm2d(256), nn.LeakyReLU()
    )


def vit_d4(side: int) -> nn.Module:
    blocks = [Encoder(256, 8, 1024) for _ in range(4)]
    return nn.Sequential(Patches(4, 256), Positions((side // 4) ** 2, 256), *blocks, nn.LayerNorm(256))


def mlp_mixer(side: int) -> nn.Module:
    return nn.Sequential(
        Patches(8, 512), *(Mixer((side // 8) ** 2, 512, 256, 2048) for _ in range(8)), nn.LayerNorm(512)
    )


MODELS = {"resnet18": resnet18, "wrn16_4": wrn16_4, "vit_d4": vit_d4, "mlp_mixer": mlp_mixer}
SIZES = {"resnet18": 261, "wrn16_4": 194, "vit_d4": 715, "mlp_mixer": 304}
CASES = [(name, side) for name in MODELS for side in (64, 32) if (name, side) != ("mlp_mixer", 32)]


def elaborated(name: str, side: int) -> Architecture:
    space = spaces.load("einspace")
    return space.elaborate(space.parse(spaces.sentences("einspace")[name]), input=(3, side, side))


@pytest.mark.parametrize(("name", "side"), CASES)
def test_params_flops_and_shape_are_those_of_the_network(name: str, side: int) -> None:
    arch = elaborated(name, side)
    with torch.device("meta"):
        model = MODELS[name](side).train()
        x = torch.empty(2, 3, side, side)
    with FlopCounterMode(display=False) as counter:
        y = model(x)
    assert arch.params == sum(p.numel() for p in model.parameters())
    assert 2 * arch.flops == counter.get_total_flops()
    assert arch.shape == tuple(y.shape[1:])


def test_the_figures_in_the_documentation() -> None:
    told = (ROOT / "docs" / "spaces.md").read_text(encoding="utf-8")
    for name in MODELS:
        arch = elaborated(name, 64)
        [row] = [line for line in told.splitlines() if line.startswith(f"| `{name}`")]
        figures = (
            f"{SIZES[name]} | {arch.params:,} | {arch.flops / 1e9:.3f} G | {arch.activation_bytes / 2**20:.1f} MiB |"
        )
        assert row.endswith(figures)


def test_expanded_sizes() -> None:
    space = spaces.load("einspace")
    for name, text in spaces.sentences("einspace").items():
        d = space.parse(text)
        assert space.trees().nodes(d.choices, [0] * len(d.choices)).sizes[0] == SIZES[name]


def test_files_are_what_the_generator_composes() -> None:
    assert spaces.sentences("einspace") == {name: text.strip() for name, text in generator().sentences().items()}
    assert set(spaces.sentences("einspace")) == set(MODELS)


def test_each_parses_back_and_has_a_key_of_its_own() -> None:
    space = spaces.load("einspace")
    found = [space.parse(text) for text in spaces.sentences("einspace").values()]
    assert len({d.key for d in found}) == len(found)
    for d in found:
        assert space.parse(d.text) == d
    for text in spaces.sentences("einspace").values():
        assert max(map(len, text.splitlines())) <= 120


def test_spaces_without_sentences_and_unknown_ones() -> None:
    assert spaces.sentences("lora_ranks") == {}
    with pytest.raises(grammar.SpaceError, match=r"no shipped space 'einspac'; did you mean einspace or einspace_1d"):
        spaces.sentences("einspac")


def test_the_mixer_fits_its_own_number_of_tokens_only() -> None:
    with pytest.raises(
        grammar.SpaceError, match=r"add cannot join 2 values of shapes 64x512, 16x512 \(input 3x32x32\)"
    ):
        elaborated("mlp_mixer", 32)
