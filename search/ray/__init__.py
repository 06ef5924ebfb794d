"""From one process to a cluster. Ray is imported by this folder's modules alone, and they only where `--ray` or a
script of the user asks for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from archrank.search.ray.searcher import Searcher as Searcher

__all__ = ["Searcher"]


def __getattr__(name: str) -> object:
    if name == "Searcher":
        from archrank.search.ray.cluster import require_ray

        require_ray("archrank.search.ray.Searcher")
        from archrank.search.ray.searcher import Searcher

        return Searcher
    raise AttributeError(f"archrank.search.ray has no {name!r}; there is: Searcher")
