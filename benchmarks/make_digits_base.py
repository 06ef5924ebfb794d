"""Makes supernet/bases/digits_vit: a tiny ViT trained on the upright digits' training rows, with small shifts as
augmentation.

    python benchmarks/make_digits_base.py [--seed 0] [--steps 2500] [--out supernet/bases/digits_vit]

It prints the accuracy on upright validation rows and, to show what there is to adapt, on the same rows turned by 90°.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import transformers
from torch.nn.functional import cross_entropy

from archrank.supernet.data import digits


def main() -> None:
    """Trains and saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "supernet" / "bases" / "digits_vit")
    args = parser.parse_args()
    torch.set_num_threads(1)  # so that the weights do not depend on the machine's cores
    torch.manual_seed(args.seed)
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
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=args.steps)
    rng = np.random.default_rng(args.seed)
    for _ in range(args.steps):
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
    model.save_pretrained(args.out)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters, {(args.out / 'model.safetensors').stat().st_size:,} bytes in {args.out}")


if __name__ == "__main__":
    main()
