"""Numbers and names as people read them."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerload.cli import text
from peerload.errors import InvalidArgument


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (90_868_376, "90.9 MB"),
        (5 * 10**20, "500.0 EB"),
        (10**30, "1000000000000.0 EB"),
    ],
)
def test_sizes_are_decimal(count: int, shown: str) -> None:
    assert text.size(count) == shown


def test_a_rate_needs_time_and_bytes() -> None:
    assert text.rate(90_000_000, 2) == "45.0 MB/s"
    assert text.rate(1, 0) == "-"
    assert text.rate(0, 1) == "-"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 ms"),
        (0.3401, "340 ms"),
        (0.9999, "1.0 s"),
        (2.34, "2.3 s"),
        (240, "4 min"),
        (7200, "2 h"),
        (200_000, "2 d"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


def test_an_age_is_never_negative() -> None:
    assert text.age(-3) == "0 s"
    assert text.age(90) == "90 s"
    assert text.age(300) == "5 min"


@pytest.mark.parametrize(
    ("written", "count"),
    [("1", 1), ("800MB", 800_000_000), ("1.5 GiB", 1610612736), ("40mb/s", 40_000_000), ("2k", 2000), ("7 B", 7)],
)
def test_sizes_as_people_write_them(written: str, count: int) -> None:
    assert text.parse_size(written, "--limit-rate") == count


@pytest.mark.parametrize("written", ["", "fast", "-1MB", "1e9", "0", "0.1B", "5 parsecs", "9" * 40, "1.2.3MB"])
def test_other_sizes_are_refused_by_the_option_s_name(written: str) -> None:
    with pytest.raises(InvalidArgument, match="--limit-rate"):
        text.parse_size(written, "--limit-rate")


@given(st.text(max_size=300))
def test_what_others_chose_cannot_steer_a_terminal(chosen: str) -> None:
    shown = text.clean(chosen)
    assert all(unicodedata.category(char)[0] != "C" for char in shown)
    assert "\n" not in shown
    assert "\x1b" not in shown


def test_clean_leaves_ordinary_names_alone_and_cuts_long_ones() -> None:
    assert text.clean("org/Modèle-7B") == "org/Modèle-7B"
    assert text.clean("a\x1b[31mb\n") == "a\\x1b[31mb\\n"
    assert len(text.clean("x" * 1000)) == 200
