from __future__ import annotations

import pytest

from autocompress.errors import SpecError
from autocompress.specs import format_duration, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("2d", 172800),
        ("0.5h", 1800),
        ("1M", 60),
        ("45", 45),
        (12, 12),
        (0.25, 0.25),
    ],
)
def test_durations_are_read_as_people_write_them(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "15 minutes", "1m1h", "1e3", "nan", float("nan"), float("inf"), True])
def test_what_is_no_duration_is_refused_with_an_example(text: str | float) -> None:
    with pytest.raises(SpecError, match=r"is not a duration.*15m") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["0s", "-15m", 0, -3, 0.0])
def test_durations_are_above_zero(text: str | float) -> None:
    with pytest.raises(SpecError, match="must be greater than 0 seconds"):
        parse_duration(text)


def test_a_duration_beyond_a_year_is_refused() -> None:
    with pytest.raises(SpecError, match="longer than a year"):
        parse_duration("1000000h")


@pytest.mark.parametrize(
    ("text", "size"), [(1, 1), ("10", 10), ("512MB", 512_000_000), ("1.5 GiB", 1_610_612_736), ("4k", 4000)]
)
def test_sizes_tell_decimal_from_binary_units(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["10 potatoes", "", "-1MB", True, "MB", 0, "0.1b"])
def test_what_is_no_size_is_refused(text: str | int) -> None:
    with pytest.raises(SpecError, match="512MB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(44.6, "45 s"), (500, "8 min 20 s"), (480, "8 min"), (5400, "1 h 30 min"), (7200, "2 h")]
)
def test_durations_are_shown_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
