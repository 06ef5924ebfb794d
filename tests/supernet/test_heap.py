"""Freed memory goes back to the system."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from archrank.supernet import heap


def test_freed_pieces_between_held_ones_are_given_back(resident: Callable[[], int]) -> None:
    heap.give_back()
    blocks = [torch.ones(16 * 1024) for _ in range(2000)]  # 64 KiB each: from the heap, not mapped alone
    held = blocks[::50]
    del blocks
    before = resident()
    if not heap.give_back():
        pytest.skip("a C library without malloc_trim")
    assert resident() < before - 60 * 2**20
    assert all(bool((t == 1).all()) for t in held)


def test_a_system_without_it_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_trim", lambda: None)
    assert heap.give_back() is False
