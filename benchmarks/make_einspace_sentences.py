"""Composes the einspace sentences of known networks from their blocks and writes them as they are shipped.

    python benchmarks/make_einspace_sentences.py [--out spaces/sentences/einspace]

Facts about the networks come from their papers: He et al. 2016 (arXiv 1512.03385), Zagoruyko and Komodakis 2016
(1605.07146), Dosovitskiy et al. 2021 (2010.11929), Tolstikhin et al. 2021 (2105.01601). docs/spaces.md states what
differs from them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

WIDEST = 100


class Call:
    """One word of a sentence with its parts, so that it can be laid out by structure."""

    def __init__(self, word: str, *parts: Call | str) -> None:
        self.word, self.parts = word, parts

    def flat(self) -> str:
        """On one line."""
        inner = ", ".join(part if isinstance(part, str) else part.flat() for part in self.parts)
        return f"{self.word}({inner})" if inner else self.word


def laid_out(call: Call | str, indent: int = 0) -> str:
    """A call over several lines where it does not fit one; a chain of `seq` stays at one indentation, a step a line."""
    flat = call if isinstance(call, str) else call.flat()
    if isinstance(call, str) or indent + len(flat) <= WIDEST:
        return flat
    if call.word == "seq":
        first, rest = call.parts
        return f"seq({laid_out(first, indent + 4)},\n{' ' * indent}{laid_out(rest, indent)})"
    inner = [laid_out(part, indent + 2) for part in call.parts]
    return f"{call.word}({inner[0]},\n" + ",\n".join(" " * (indent + 2) + part for part in inner[1:]) + ")"


def seq(*steps: Call | str) -> Call | str:
    """The steps one after the other; the language's `seq` takes two."""
    return steps[0] if len(steps) == 1 else Call("seq", steps[0], seq(*steps[1:]))


def conv(kernel: int, stride: int, padding: int, width: int) -> Call:
    """A convolution: windows as rows, one linear layer over each, rows back to an image."""
    return Call("route", f"im2col({kernel},{stride},{padding})", f"linear({width})", "col2im")


def added(*modules: Call | str) -> Call:
    """The sum of two modules of one input."""
    return Call("branch2", "clone", *modules, "add")


def resnet18() -> Call | str:
    """ResNet-18 with the 3x3 stem that is used for small images; no pooling, no head."""
    blocks: list[Call | str] = []
    width_in = 64
    for width in (64, 128, 256, 512):
        for _ in range(2):
            stride = 2 if width != width_in else 1
            path = seq(conv(3, stride, 1, width), "norm", "leaky_relu", conv(3, 1, 1, width), "norm")
            short = seq(conv(1, 2, 0, width), "norm") if stride == 2 else "id"
            blocks += [added(path, short), "leaky_relu"]
            width_in = width
    return seq(conv(3, 1, 1, 64), "norm", "leaky_relu", *blocks)


def wrn16_4() -> Call | str:
    """WRN-16-4: three groups of two pre-activated blocks, four times as wide; a block that changes the width shares its
    first norm with the shortcut.
    """
    steps: list[Call | str] = [conv(3, 1, 1, 16)]
    for width, stride in ((64, 1), (128, 2), (256, 2)):
        path = (conv(3, 1, 1, width), "norm", "leaky_relu", conv(3, 1, 1, width))
        wider = seq(conv(3, stride, 1, width), *path[1:])
        steps += ["norm", "leaky_relu", added(wider, conv(1, stride, 0, width))]
        steps.append(added(seq("norm", "leaky_relu", *path), "id"))
    return seq(*steps, "norm", "leaky_relu")


def attention(width: int, heads: int) -> Call | str:
    """Self-attention with `heads` heads (8, 4) side by side, each with weights of its own."""
    query, key, value = (f"linear({width // heads})" for _ in range(3))
    scores = Call("branch2", "clone", query, Call("route", "id", key, "permute(21)"), "scaled_matmul")
    head = Call("branch2", "clone", seq(scores, "softmax"), value, "matmul")
    return seq(Call(f"branch{heads}", "clone", head, "concat(2)"), f"linear({width})")


def mlp(inner: int, width: int) -> tuple[Call | str, ...]:
    """Two linear layers."""
    return f"linear({inner})", "leaky_relu", f"linear({width})"


def vit_d4() -> Call | str:
    """A vision transformer of four pre-normed blocks, 256 wide, 8 heads, 4x4 patches; no class token, no head."""
    blocks = [added(seq("norm", step), "id") for _ in range(4) for step in (attention(256, 8), seq(*mlp(1024, 256)))]
    return seq(Call("route", "im2col(4,4,0)", "linear(256)", "id"), "pos_enc", *blocks, "norm")


def mlp_mixer() -> Call | str:
    """MLP-Mixer with the widths of Mixer-S on 8x8 patches; the tokens that it mixes are the 64 of a 64x64 image."""
    tokens = Call("route", "permute(21)", seq(*mlp(256, 64)), "permute(21)")
    blocks = [added(seq("norm", step), "id") for _ in range(8) for step in (tokens, seq(*mlp(2048, 512)))]
    return seq(Call("route", "im2col(8,8,0)", "linear(512)", "id"), *blocks, "norm")


def sentences() -> dict[str, str]:
    """Each network's sentence, laid out."""
    networks = {"resnet18": resnet18(), "wrn16_4": wrn16_4(), "vit_d4": vit_d4(), "mlp_mixer": mlp_mixer()}
    return {name: laid_out(network) + "\n" for name, network in networks.items()}


def main() -> None:
    """Writes one file a network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("--out", type=Path, default=here / "spaces" / "sentences" / "einspace")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, text in sentences().items():
        (args.out / f"{name}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
