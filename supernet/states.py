"""Hidden states kept from one evaluation to the next: a child resumes at the first layer that it changes.

A state depends on the weights, the batch and the candidate's prefix, and on nothing else: the first is a fingerprint
of their content, so training, loading or a write through `.data` makes everything kept void. Least recently used
states go first once `limit_bytes` is reached.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from torch import Tensor

__all__ = ["StateCache"]


class StateCache:
    """A bounded store of tensors that are all of one version of the weights."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self.version: int | None = None
        self.merges: bool | None = None  # whether merged weights round little enough, once that was tried
        self._held: OrderedDict[Hashable, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._held

    def at(self, version: int) -> StateCache:
        """The store for these weights: empty where it held others'."""
        if version != self.version:
            self.clear()
            self.version, self.merges = version, None
        return self

    def get(self, key: Hashable) -> Tensor | None:
        """What is kept under the key, now the most recently used."""
        found = self._held.get(key)
        if found is not None:
            self._held.move_to_end(key)
        return found

    def put(self, key: Hashable, value: Tensor) -> None:
        """Keeps a tensor; one larger than the limit is not kept."""
        size = value.numel() * value.element_size()
        if size > self.limit_bytes or key in self._held:
            return
        while self.bytes + size > self.limit_bytes:
            _, old = self._held.popitem(last=False)
            self.bytes -= old.numel() * old.element_size()
        self._held[key] = value
        self.bytes += size

    def clear(self) -> None:
        """Forgets everything."""
        self._held.clear()
        self.bytes = 0
