"""The built-in data sets: scikit-learn's 1,797 hand-written digits (Alpaydin and Kaynak, UCI), upright and turned by
90°.

Both are split 1000 / 300 / 497 by one fixed permutation of the same rows, so that a base trained on upright training
rows has seen no turned test row.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["NAMES", "SIZES", "load"]

NAMES = ("digits", "digits-rotated")
SIZES = {"train": 1000, "validation": 300, "test": 497}


def load(name: str) -> tuple[dict[str, dict[str, NDArray[np.float32] | NDArray[np.int64]]], str]:
    """({split: {"image": (rows, 1, 8, 8) in [-1, 1], "label": (rows,)}}, sha256 of the pixels and labels)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images.astype(np.float32) / 8 - 1)[:, None]
    if name == "digits-rotated":
        images = np.ascontiguousarray(np.rot90(images, axes=(2, 3)))
    labels = digits.target.astype(np.int64)
    place = np.random.default_rng(0).permutation(len(labels))
    splits: dict[str, dict[str, NDArray[np.float32] | NDArray[np.int64]]] = {}
    start = 0
    for split, rows in SIZES.items():
        index = place[start : start + rows]
        splits[split] = {"image": images[index], "label": labels[index]}
        start += rows
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    return splits, digest
