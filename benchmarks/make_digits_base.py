"""Makes supernet/bases/digits_vit: a tiny ViT trained on the upright digits' training rows, with small shifts as
augmentation.

    python benchmarks/make_digits_base.py [--seed 0] [--steps 2500] [--out supernet/bases/digits_vit]
    python benchmarks/make_digits_base.py --ranks [--seeds 3] [--shifts]    # trains no base: the table of docs/data.md

It prints the accuracy on upright validation rows and, to show what there is to adapt, on the same rows turned by 90°.
`--ranks` prints how much rank matters there: stock PEFT LoRA on the shipped base, all linear layers, frozen head.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import peft
import torch
import transformers
from torch.nn.functional import cross_entropy

from archrank.supernet.base import load_base
from archrank.supernet.data import TaskData, digits, order, prepare, read_dataset
from archrank.supernet.modules import target_modules


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "supernet" / "bases" / "digits_vit")
    parser.add_argument("--ranks", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shifts", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)  # so that the weights do not depend on the machine's cores
    if args.ranks:
        print_ranks(args.seeds, args.shifts)
    else:
        make(args.seed, args.steps, args.out)


def make(seed: int, steps: int, out: Path) -> None:
    """Trains the base on upright digits."""
    torch.manual_seed(seed)
    config = transformers.ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=10,
        id2label={i: str(i) for i in range(10)},
        label2id={str(i): i for i in range(10)},
    )
    model = transformers.ViTForImageClassification(config)
    upright, _ = digits.load("digits")
    images, labels = (torch.from_numpy(upright["train"][k]) for k in ("image", "label"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        index = torch.from_numpy(rng.integers(0, len(labels), 64))
        high, wide = rng.integers(-1, 2, 2)
        batch = torch.roll(images[index], (int(high), int(wide)), (2, 3))
        loss = cross_entropy(model(pixel_values=batch).logits, labels[index], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    for name in digits.NAMES:
        rows, _ = digits.load(name)
        with torch.no_grad():
            logits = model(pixel_values=torch.from_numpy(rows["validation"]["image"])).logits
        right = (logits.argmax(-1) == torch.from_numpy(rows["validation"]["label"])).float().mean()
        print(f"{name}: validation accuracy {float(right):.3f}")
    model.save_pretrained(out)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters, {(out / 'model.safetensors').stat().st_size:,} bytes in {out}")


def print_ranks(seeds: int, shifts: bool) -> None:
    """Test loss, accuracy, and accuracy over the nine shifts of a pixel, by rank; means over seeds."""
    for rank in (0, 1, 2, 4, 8):
        loss, right, shifted = np.mean([adapted(rank, seed, shifts) for seed in range(seeds if rank else 1)], axis=0)
        print(f"rank {rank}: test loss {loss:.3f}, accuracy {right:.3f}, over 9 shifts {shifted:.3f}", flush=True)


def adapted(rank: int, seed: int, shifts: bool, steps: int = 600, rate: float = 5e-3) -> tuple[float, float, float]:
    """The shipped base after LoRA of one rank on the turned digits; `shifts`: each training row moved at random."""
    torch.manual_seed(seed)
    raw = read_dataset("digits-rotated")
    base = load_base(None, label_names=raw.label_names)
    data, model = prepare(raw, base), base.model
    if rank:
        names = list(target_modules(base.model, "all-linear"))
        model = peft.get_peft_model(base.model, peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=names))
        model.train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
        for step in range(steps):
            batch = data.batch("train", order(seed, step, 64, data.size("train")))
            if shifts:
                moves = np.random.default_rng([seed, step]).integers(-1, 2, (64, 2))
                moved = [
                    torch.roll(p, tuple(map(int, m)), (1, 2)) for p, m in zip(batch["pixel_values"], moves, strict=True)
                ]
                batch["pixel_values"] = torch.stack(moved)
            loss = cross_entropy(model(pixel_values=batch["pixel_values"]).logits, batch["labels"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return tested(model.eval(), data)


def tested(model: torch.nn.Module, data: TaskData) -> tuple[float, float, float]:
    """Loss and accuracy on the test rows, and the mean accuracy over their nine shifts."""
    batch = data.batch("test", range(data.size("test")))
    right = {}
    with torch.no_grad():
        loss = float(cross_entropy(model(pixel_values=batch["pixel_values"]).logits, batch["labels"]))
        for move in ((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
            logits = model(pixel_values=torch.roll(batch["pixel_values"], move, (2, 3))).logits
            right[move] = float((logits.argmax(-1) == batch["labels"]).float().mean())
    return loss, right[0, 0], float(np.mean(list(right.values())))


if __name__ == "__main__":
    main()
