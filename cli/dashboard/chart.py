"""The course of a measure on the whole screen, with its axes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from rich.text import Text

from cli.dashboard.lines import line, right
from cli.dashboard.marks import SPARKS, number, shares
from streamrec_dist.course import Bucket, Course

#: Cells left of the chart, for the numbers of its axis.
AXIS = 10
#: Eighths of a line, as far as plain characters tell them apart.
ASCII_PARTS = "__..--##"
#: Lines between two numbers of the axis.
EVERY = 4
#: A running mean reaches over such a part of the columns to either side.
SMOOTH = 30


@dataclass(frozen=True)
class Column:
    """What one column of the chart is about: steps, and the mean, lowest and highest value in them."""

    first: int
    last: int
    mean: float
    low: float
    high: float


def chart(course: Course | None, width: int, height: int, ascii_only: bool = False) -> list[Text]:
    """Running means as points, in the range from the lowest to the highest value; `height` lines with the axes."""
    rows = height - 2
    columns = _smooth(_columns(course, width - AXIS - 1)) if rows > 1 else []
    if not columns:
        return [line(("nothing measured yet", "label"))]
    low, high = _apart(min(column.low for column in columns), max(column.high for column in columns))
    step = (high - low) / rows
    point, range_of = ("*", ":") if ascii_only else ("●", "│")
    cells = []
    for row in range(rows):
        top = high - row * step
        cells.append("".join(_cell(column, top - step, top, low, point, range_of) for column in columns))
    return _framed(cells, columns, low, high, point, ascii_only)


def area(course: Course | None, width: int, height: int, ascii_only: bool = False) -> list[Text]:
    """Means as an area above their lowest, in eighths of a line: for charts of few lines."""
    rows = height - 2
    columns = _columns(course, width - AXIS - 1) if rows > 0 else []
    if not columns:
        return [line(("nothing measured yet", "label"))]
    means = np.array([column.mean for column in columns])
    low, high = _apart(float(means.min()), float(means.max()))
    filled = np.clip(np.rint((means - low) / (high - low) * 8 * rows), 1, None).astype(int)
    parts = [" ", *(ASCII_PARTS if ascii_only else SPARKS)]
    cells = [
        "".join(parts[part] for part in np.clip(filled - 8 * row, 0, 8).tolist())
        for row in reversed(range(rows))
    ]
    return _framed(cells, columns, low, high, "", ascii_only)


def _apart(low: float, high: float) -> tuple[float, float]:
    """The ends of an axis, which are not the same; about a single value they are as far as it is from 0."""
    room = abs(high) / 2 or 0.5
    return (low, high) if high > low else (low - room, high + room)


def _framed(
    cells: list[str], columns: list[Column], low: float, high: float, point: str, ascii_only: bool
) -> list[Text]:
    """Rows of cells with the axes; where there are points, all else is in the background."""
    rows, lines = len(cells), []
    for row, text in enumerate(cells):
        told = (row % EVERY == 0 and row < rows - 2) or row == rows - 1
        value = low if row == rows - 1 else high - row * (high - low) / rows
        begun = line((right(number(value) if told else "", AXIS) + ("|" if ascii_only else "┤"), "label"))
        lines.append(_coloured(begun, text, point) if point else begun.append(text, "mark"))
    floor = "+" + "-" * len(columns) if ascii_only else "└" + "─" * len(columns)
    lines.append(line((" " * AXIS + floor, "label")))
    return [*lines, _steps(columns)]


def _columns(course: Course | None, room: int) -> list[Column]:
    """A column for each cell; where there are fewer buckets, each has several. None where nothing can be shown."""
    if course is None or not course.buckets or room < 8:
        return []
    buckets = course.buckets
    if len(buckets) < room:
        found = [_column([bucket]) for bucket in buckets]
        return [found[cell * len(found) // room] for cell in range(room)]
    return [_column(buckets[first:last]) for first, last in shares(len(buckets), room)]


def _column(buckets: list[Bucket]) -> Column:
    count = sum(bucket.count for bucket in buckets)
    return Column(
        buckets[0].first,
        buckets[-1].last,
        sum(bucket.total for bucket in buckets) / count,
        min(bucket.low for bucket in buckets),
        max(bucket.high for bucket in buckets),
    )


def _smooth(columns: list[Column]) -> list[Column]:
    """The mean of each column is that of it and its neighbours: what a single step does hides where a course goes."""
    means, reach = np.array([column.mean for column in columns]), len(columns) // SMOOTH
    sums = np.concatenate([[0.0], np.cumsum(means)])
    ends = [(max(0, at - reach), min(len(columns), at + reach + 1)) for at in range(len(columns))]
    smooth = [float(sums[last] - sums[first]) / (last - first) for first, last in ends]
    return [replace(column, mean=mean) for column, mean in zip(columns, smooth, strict=True)]


def _cell(column: Column, below: float, top: float, lowest: float, point: str, range_of: str) -> str:
    """What of a column is between two values."""
    if below < column.mean <= top or (column.mean <= lowest and below <= lowest):
        return point
    return range_of if column.low < top and column.high > below else " "


def _coloured(text: Text, cells: str, point: str) -> Text:
    """The cells behind a text, runs of points and of others each in their colour."""
    at = 0
    while at < len(cells):
        end = at + 1
        while end < len(cells) and (cells[end] == point) == (cells[at] == point):
            end += 1
        text.append(cells[at:end], "mark" if cells[at] == point else "label")
        at = end
    return text


def _steps(columns: list[Column]) -> Text:
    """The steps below the axis: the first, one in the middle, the last."""
    names = [f"{columns[0].first:,}", f"{columns[len(columns) // 2].first:,}", f"step {columns[-1].last:,}"]
    first, middle, last = names
    room = len(columns)
    text = first + middle.rjust(room // 2 + len(middle) // 2 - len(first))
    return line((" " * (AXIS + 1) + text + last.rjust(room - len(text)), "label"))
