"""Small pictures made of characters: sparklines, bars, numbers that keep their width."""

from __future__ import annotations

import math
from collections.abc import Sequence

SPARKS = "▁▂▃▄▅▆▇█"
ASCII_SPARKS = "_.-=+*%#"


def sparkline(values: Sequence[float], width: int, ascii_only: bool = False) -> str:
    """The course of a series in `width` characters; each stands for the mean of its share of the values."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite or width < 1:
        return ""
    count = min(width, len(finite))
    means = []
    for column in range(count):
        share = finite[column * len(finite) // count : (column + 1) * len(finite) // count]
        means.append(sum(share) / len(share))
    low, high = min(means), max(means)
    sparks = ASCII_SPARKS if ascii_only else SPARKS
    if high == low:
        return sparks[len(sparks) // 2] * count
    return "".join(
        sparks[min(len(sparks) - 1, int((mean - low) / (high - low) * len(sparks)))] for mean in means
    )


def bar(share: float, width: int, ascii_only: bool = False) -> str:
    """A bar of `width` characters filled to `share` (0 to 1)."""
    filled = round(min(1.0, max(0.0, share)) * width)
    full, empty = ("#", "-") if ascii_only else ("━", "╌")
    return full * filled + empty * (width - filled)


def number(value: object) -> str:
    """A number in at most eight characters; a dash for what is missing."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e6):
        return f"{int(value)}"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        return f"{value:.1e}"
    return f"{value:.{4 if size < 10 else 2 if size < 1000 else 0}f}"


def brief(value: object) -> str:
    """A number in three digits, for facts that are glanced at."""
    return f"{value:.3g}" if isinstance(value, int | float) and abs(value) < 1e3 else number(value)


def percent(value: object) -> str:
    return f"{100 * value:.0f} %" if isinstance(value, int | float) else "-"
