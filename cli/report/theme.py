"""The colours of the report, of its page as of its charts, on light and on dark ground."""

from __future__ import annotations

from typing import NamedTuple


class Shade(NamedTuple):
    """A colour on light and on dark ground. No two shades are equal on light ground."""

    light: str
    dark: str


THEME = {
    "paper": Shade("#ffffff", "#14171b"),
    "panel": Shade("#f6f7f9", "#1d2127"),
    "ink": Shade("#1c2127", "#e7eaee"),
    "muted": Shade("#5b6570", "#a2acb8"),
    "line": Shade("#d9dde2", "#363d46"),
    "good": Shade("#1b7f4b", "#5fd39a"),
    "warn": Shade("#9a6200", "#f0b849"),
    "bad": Shade("#b3261e", "#ff8a80"),
    "series0": Shade("#2563c9", "#7fb0ff"),
    "series1": Shade("#c2570c", "#ffa35e"),
    "series2": Shade("#0c857a", "#4fd6c4"),
    "series3": Shade("#7a3db8", "#c9a0ff"),
    "series4": Shade("#b0305c", "#ff87ad"),
    "series5": Shade("#7d6608", "#e2c64d"),
    "series6": Shade("#4a6a8a", "#9fc1e3"),
    "series7": Shade("#5d7d1f", "#b5d76b"),
    "rest": Shade("#c3c9d0", "#4a525c"),
}
SERIES = tuple(f"series{place}" for place in range(8))


def light(name: str) -> str:
    return THEME[name].light


def stylesheet() -> str:
    """CSS variables `--NAME` of all shades, dark where the reader's system is."""
    day = "".join(f"--{name}:{shade.light};" for name, shade in THEME.items())
    night = "".join(f"--{name}:{shade.dark};" for name, shade in THEME.items())
    return f":root{{{day}}}@media (prefers-color-scheme:dark){{:root{{{night}}}}}"
