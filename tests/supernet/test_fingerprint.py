"""What counts as the same weights."""

from __future__ import annotations

import pytest
import torch

from archrank.supernet.fingerprint import fingerprint


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (70_001,), (128, 300)])
def test_one_changed_bit_is_seen(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(0)
    t = torch.randint(0, 2, shape, generator=g).to(dtype)
    was = fingerprint([t])
    assert fingerprint([t.clone()]) == was
    for place in {0, t.numel() // 2, t.numel() - 1}:
        other = t.clone()
        other.view(-1)[place] = 1 - other.view(-1)[place].int()
        assert fingerprint([other]) != was
    swapped = t.flip(0)
    assert torch.equal(swapped, t) or fingerprint([swapped]) != was


def test_shape_dtype_order_and_strides() -> None:
    a, b = torch.arange(12.0), torch.ones(12)
    assert fingerprint([a, b]) != fingerprint([b, a])
    assert fingerprint([a]) != fingerprint([a.view(3, 4)])
    assert fingerprint([a.view(3, 4).T]) == fingerprint([a.view(3, 4).T.contiguous()])
    assert fingerprint([torch.zeros(2)]) != fingerprint([torch.zeros(2, dtype=torch.int32)])
    assert fingerprint([torch.zeros(0)]) != fingerprint([])
    assert fingerprint([a[1:]]) == fingerprint([a[1:].clone()]), "an address that is not a multiple of 8"
