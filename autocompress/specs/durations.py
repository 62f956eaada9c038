"""Durations and sizes as people write them: ``15m``, ``1h30m``, ``90s``, ``512MB``, ``1.5 GiB``."""

from __future__ import annotations

import math
import re

from autocompress.errors import SpecError

MAX_DURATION_S = 366 * 24 * 3600.0
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(
    r"(?:(?P<d>\d+(?:\.\d+)?)d)?(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s?)?"
)
_BYTES = {
    "": 1, "b": 1,
    "k": 1000, "kb": 1000, "kib": 1024,
    "m": 1000**2, "mb": 1000**2, "mib": 1024**2,
    "g": 1000**3, "gb": 1000**3, "gib": 1024**3,
}  # fmt: skip
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")


def parse_duration(value: str | float) -> float:
    """Seconds of a duration: a number of seconds, or text such as ``90s``, ``15m``, ``1h30m``, ``2d``.

    Returns:
        Seconds, above 0 and at most 366 days.

    Raises:
        SpecError: the text is not a duration, or it is not above 0, or it is longer than a year.
    """
    seconds = _duration_seconds(value)
    if seconds is None or not math.isfinite(seconds):
        raise SpecError(f"{value!r} is not a duration; write seconds or text such as 90s, 15m, 1h30m")
    if seconds <= 0:
        raise SpecError(f"{value!r} must be greater than 0 seconds, such as 90s, 15m, 1h30m")
    if seconds > MAX_DURATION_S:
        raise SpecError(f"{value!r} is longer than a year; write seconds or text such as 90s, 15m, 1h30m")
    return seconds


def parse_size(value: str | int) -> int:
    """Bytes of a size: a whole number of bytes, or text such as ``512MB`` (10^6) or ``1.5GiB`` (2^30).

    Returns:
        Bytes, above 0.

    Raises:
        SpecError: the value is not a size, or it is not above 0.
    """
    size: float | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value.strip().lower())) and match[2] in _BYTES:
        size = float(match[1]) * _BYTES[match[2]]
    if size is None or not math.isfinite(size):
        raise SpecError(f"{value!r} is not a size; write bytes or text such as 512MB, 1.5GiB")
    if size < 1:
        raise SpecError(f"{value!r} must be at least one byte, such as 512MB, 1.5GiB")
    return int(size)


def format_duration(seconds: float) -> str:
    """Short text of a duration, such as ``45 s``, ``8 min 20 s`` or ``1 h 30 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def _duration_seconds(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    if not isinstance(value, str):
        return None
    text = value.strip().lower().replace(" ", "")
    sign = 1.0
    if text.startswith("-"):
        sign, text = -1.0, text[1:]
    match = _DURATION.fullmatch(text)
    if match is None or not any(match.groupdict().values()):
        return None
    return sign * sum(float(number) * _SECONDS[unit] for unit, number in match.groupdict().items() if number)
