"""Line charts made of characters: dots of braille, or marks where there are no colours or no braille."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from rich.text import Text

from cli.curves import Curve, span
from cli.dashboard.lines import words
from cli.dashboard.marks import number

COLOURS = ("cyan", "yellow", "magenta", "green", "red", "blue")
MARKS = "*+ox#@"
#: Columns of the labels of the value axis.
LABELS = 9
#: The dots of a braille character, by row and column.
DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
BRAILLE = 0x2800


def chart(
    curves: Sequence[Curve],
    names: Sequence[str],
    width: int,
    height: int,
    coloured: bool = True,
    ascii_only: bool = False,
) -> Text:
    """Curves in `width` columns and `height` rows, with a legend above, values at the left and steps below.

    Without colours curves of one chart are told apart by their marks.
    """
    marked = ascii_only or (len(curves) > 1 and not coloured)
    columns = max(10, width - LABELS - 2)
    steps = min(curve.steps[0] for curve in curves), max(curve.steps[-1] for curve in curves)
    values = _padded(*span(curves))
    picture = Text(no_wrap=True, overflow="crop")
    for place, (curve, name) in enumerate(zip(curves, names, strict=True)):
        sign = MARKS[place % len(MARKS)] if marked else "-" if ascii_only else "━"
        said = f"{sign} {words(name)}  last {number(float(curve.means[-1]))}"
        picture.append(f"{said[:width]}\n", COLOURS[place % len(COLOURS)])
    layers = [_dots(curve, steps, values, columns, height, 1 if marked else 2) for curve in curves]
    rows = _marks(layers) if marked else _braille(layers)
    for row, cells in enumerate(rows):
        picture.append(_value_label(row, height, values).rjust(LABELS))
        picture.append(" |" if ascii_only else " ┤")
        used = max((place + 1 for place, (_, owner) in enumerate(cells) if owner >= 0), default=0)
        for owner, alike in groupby(cells[:used], key=lambda one: one[1]):
            signs = "".join(sign for sign, _ in alike)
            picture.append(signs, COLOURS[owner % len(COLOURS)] if owner >= 0 else "")
        picture.append("\n")
    corner, line = ("+", "-") if ascii_only else ("└", "─")
    picture.append(" " * (LABELS + 1) + corner + line * columns + "\n")
    picture.append(" " * (LABELS + 2) + _step_labels(steps, columns))
    return picture


def _padded(low: float, high: float) -> tuple[float, float]:
    if high > low:
        return low, high
    room = abs(high) / 2 or 1.0
    return low - room, high + room


def _dots(
    curve: Curve,
    steps: tuple[float, float],
    values: tuple[float, float],
    columns: int,
    height: int,
    fine: int,
) -> np.ndarray:
    """Where a curve runs: bool [2 fine height, fine columns] of dots for braille (fine 2), or [height, columns]."""
    across, down = columns * fine, height * (4 if fine == 2 else 1)
    dots = np.zeros((down, across), dtype=bool)
    width = max(steps[1] - steps[0], 1e-12)
    at = np.clip(np.round((curve.steps - steps[0]) / width * (across - 1)).astype(int), 0, across - 1)
    first, last = at[0], at[-1]
    places = np.arange(first, last + 1)
    means = np.interp(places, at, curve.means) if len(at) > 1 else curve.means[:1]
    level = (means - values[0]) / (values[1] - values[0])
    rows = np.clip(np.round((1 - level) * (down - 1)).astype(int), 0, down - 1)
    for place, row, before in zip(places, rows, [rows[0], *rows[:-1]], strict=True):
        # From where it was: a steep curve stays in one piece.
        dots[min(row, before) : max(row, before) + 1, place] = True
    return dots


def _braille(layers: Sequence[np.ndarray]) -> list[list[tuple[str, int]]]:
    """Characters with the number of the curve whose colour they have: the last with a dot there; -1 for none."""
    down, across = layers[0].shape
    rows = []
    for top in range(0, down, 4):
        row = []
        for left in range(0, across, 2):
            owner, code = -1, 0
            for place, layer in enumerate(layers):
                cell = layer[top : top + 4, left : left + 2]
                if cell.any():
                    owner, code = place, code | int(DOTS[cell].sum())
            row.append((chr(BRAILLE + code) if code else " ", owner))
        rows.append(row)
    return rows


def _marks(layers: Sequence[np.ndarray]) -> list[list[tuple[str, int]]]:
    owners = np.full(layers[0].shape, -1)
    for place, layer in enumerate(layers):
        owners[layer] = place
    return [
        [(MARKS[owner % len(MARKS)] if owner >= 0 else " ", int(owner)) for owner in row] for row in owners
    ]


def _value_label(row: int, height: int, values: tuple[float, float]) -> str:
    """Labels at the top, the middle and the bottom."""
    if row not in (0, (height - 1) // 2, height - 1):
        return ""
    share = 1 - row / max(height - 1, 1)
    return number(float(values[0] + share * (values[1] - values[0])))


def _step_labels(steps: tuple[float, float], columns: int) -> str:
    first, middle, last = (f"{value:.0f}" for value in (steps[0], sum(steps) / 2, steps[1]))
    if first == last:
        return f"step {first}"
    left = f"step {first}"
    room = columns - len(left) - len(last)
    if room < len(middle) + 4:
        return left + last.rjust(columns - len(left))
    return left + middle.center(room) + last
