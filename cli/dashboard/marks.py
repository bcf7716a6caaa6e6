"""Small pictures made of characters: sparklines, bars, numbers that keep their width."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

SPARKS = "▁▂▃▄▅▆▇█"
ASCII_SPARKS = "_.-=+*%#"
UP, LEVEL, DOWN = "↗→↘"
ASCII_UP, ASCII_LEVEL, ASCII_DOWN = "/-\\"
#: A slope of so many standard errors is no accident; of fewer values nothing is said.
CERTAIN, SHORTEST = 3.0, 8


def shares(count: int, parts: int) -> list[tuple[int, int]]:
    """Where each of `parts` even shares of `count` values begins and ends; with fewer values, a share for each."""
    parts = min(parts, count)
    return [(part * count // parts, (part + 1) * count // parts) for part in range(parts)]


def sparkline(values: Sequence[float] | np.ndarray, width: int, ascii_only: bool = False) -> str:
    """The course of a series in `width` characters; each stands for the mean of its share of the values."""
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    if not len(finite) or width < 1:
        return ""
    spans = shares(len(finite), width)
    sums = np.add.reduceat(finite, [first for first, _ in spans])
    means = sums / [last - first for first, last in spans]
    low, high = means.min(), means.max()
    sparks = ASCII_SPARKS if ascii_only else SPARKS
    # Of numbers that differ by rounding alone there is nothing to see.
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return sparks[len(sparks) // 2] * len(means)
    levels = np.minimum((means - low) / (high - low) * len(sparks), len(sparks) - 1).astype(int)
    return "".join(sparks[level] for level in levels.tolist())


def trend(values: np.ndarray, ascii_only: bool = False) -> str:
    """Whether the last half of a series rises, falls or does neither; nothing for a short one."""
    recent = values[len(values) // 2 :]
    count = len(recent)
    if count < SHORTEST:
        return ""
    up, level, down = (ASCII_UP, ASCII_LEVEL, ASCII_DOWN) if ascii_only else (UP, LEVEL, DOWN)
    steps = np.arange(count) - (count - 1) / 2
    spread = float(steps @ steps)
    slope = float(steps @ recent) / spread
    left = recent - recent.mean() - slope * steps
    noise = math.sqrt(float(left @ left) / (count - 2) / spread)
    if abs(slope) <= CERTAIN * noise + 1e-9 * float(abs(recent).max()):
        return level
    return up if slope > 0 else down


def bar(share: float, width: int, ascii_only: bool = False) -> str:
    """A bar of `width` characters filled to `share` (0 to 1)."""
    filled = round(min(1.0, max(0.0, share)) * width)
    full, empty = ("#", "-") if ascii_only else ("━", "╌")
    return full * filled + empty * (width - filled)


def number(value: object, room: int = 8) -> str:
    """A number in at most `room` characters, seven or more; a dash for what is missing."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return "-"
    if (isinstance(value, int) or value.is_integer()) and abs(value) < 1e6:
        return f"{int(value)}"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        exact = f"{value:.1e}"
        return exact if len(exact) <= room else f"{value:.0e}"
    return f"{value:.{4 if size < 10 else 2 if size < 1000 else 0}f}"


def brief(value: object) -> str:
    """A number in three digits, for facts that are glanced at: 0.123, 812, 12.1k, 3.4M."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return number(value)
    if abs(value) >= 1e12:
        return f"{value:.0e}"
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # From where three digits round up to it.
        if abs(value) >= 0.9995 * unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def percent(value: object) -> str:
    if not isinstance(value, int | float):
        return "-"
    whole = f"{100 * value:.0f}"
    # Of a share that is hardly below nothing no sign is left.
    return f"{'0' if whole == '-0' else whole} %"


def short_span(seconds: float) -> str:
    """A length of time in at most six characters: 42s, 3m05s, 2h10m, 4d03h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
