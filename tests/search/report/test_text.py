"""Numbers, durations and names as people read them."""

from __future__ import annotations

import math

from archrank.search.report.text import duration, folded, number, shorten, without_shared_start


def test_numbers_are_written_for_people() -> None:
    assert number(20480) == "20,480"
    assert number(0.31249) == "0.312"
    assert number(1.2, "ms") == "1.2 ms"
    assert number(0.76, zeros=True) == "0.760"
    assert number(64 * 2**20, "bytes") == "64 MiB"
    assert number(512, "bytes") == "512 B"
    assert number(1.234e10) == "12.3 G"
    assert number(999_999.5) == "1,000,000"
    assert number(2e-6) == "2.00e-06"
    assert number(None) == number(math.nan) == "–"
    assert [duration(s) for s in (0.44, 23, 134, 11_100, 190_000)] == [
        "0.4 s",
        "23 s",
        "2 min 14 s",
        "3 h 05 min",
        "2 d 4 h",
    ]
    assert shorten("a  b\nc", 10) == "a b c"
    assert shorten("abcdefghijklmnopqrstuvwxyz", 11) == "abcde…vwxyz"
    assert len(shorten("x" * 99, 40)) == 40


def test_names_lose_what_they_share() -> None:
    assert without_shared_start(["vit.layers.0.q", "vit.layers.1.q"]) == ["0.q", "1.q"]
    assert without_shared_start(["a.b", "a.b"]) == ["b", "b"]
    assert without_shared_start(["vit.layers.0.q"]) == ["vit.layers.0.q"]
    assert without_shared_start(["a", "a.b"]) == ["a", "a.b"]
    assert without_shared_start([]) == []


def test_names_are_folded_where_their_parts_meet() -> None:
    assert folded("loss", 11) == ["loss"]
    assert folded("latency_ms@a100", 11) == ["latency_ms", "@a100"]
    assert folded("0.attention.q_proj", 11) == ["0.attention", ".q_proj"]
    assert folded("x" * 40, 11) == [shorten("x" * 40, 15)]
    assert len(folded("a_" * 40, 11)) == 3
    assert folded("", 11) == [""]
