"""Which space has which pool of candidates."""

from __future__ import annotations

import pytest

from archrank import spaces
from archrank.search.strategies._pool import RowPool, TextPool, pool_of


@pytest.mark.parametrize(("name", "pool"), [("nasbench201", RowPool), ("einspace", TextPool)])
def test_a_space_that_unrolls_has_rows(name: str, pool: type) -> None:
    assert type(pool_of(spaces.load(name))) is pool


def test_rows_of_a_recursive_space_are_refused() -> None:
    with pytest.raises(ValueError, match=r"einspace does not unroll: TextPool has its candidates"):
        RowPool(spaces.load("einspace"))
