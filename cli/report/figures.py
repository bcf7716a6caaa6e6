"""The charts of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from cli.curves import Curve
from cli.dashboard.marks import number
from cli.output import clean
from cli.report.canvas import Sheet, legend, plain_axes
from cli.report.theme import SERIES, light
from cli.report.utilisation import WAITING, Utilisation

COLUMNS = 4
#: Of few points each is marked.
FEW = 16
#: A range of means that is so many times that of all but a few hundredths of them is not shown whole.
OUTLYING, MANY = 8.0, 50
#: Minutes below which a time axis is in seconds.
BRIEF = 3.0


def small_multiples(title: str, subtitle: str, curves: Sequence[Curve]) -> Sheet:
    """A small chart for each curve, with the range of its values as a band."""
    columns = min(COLUMNS, max(2, len(curves)))
    sheet = Sheet(title, subtitle, -(-len(curves) // columns), columns, 118)
    sheet.drop(len(curves))
    for axes, curve in zip(sheet.axes, curves, strict=False):
        name = curve.metric.rpartition("/")[2] if _same_prefix(curves) else curve.metric
        plain_axes(axes, name, number(float(curve.means[-1])))
        _draw(axes, curve, "series0", band=True)
        _limit(axes, curve)
    return sheet


def lines(
    title: str, subtitle: str, charts: Sequence[tuple[str, Sequence[Curve]]], names: Sequence[Sequence[str]]
) -> Sheet:
    """A wide chart for each group of curves, with their names."""
    sheet = Sheet(title, subtitle, len(charts), 1, 230)
    for axes, (name, curves), labels in zip(sheet.axes, charts, names, strict=True):
        plain_axes(axes, name, x="step", ticks=8)
        for place, (curve, label) in enumerate(zip(curves, labels, strict=True)):
            _draw(axes, curve, SERIES[place % len(SERIES)], band=len(curves) == 1, label=label)
        legend(axes)
    return sheet


def ledger_courses(subtitle: str, groups: Sequence[tuple[str, Sequence[Curve]]]) -> Sheet:
    """Terms of the reward in one colour each: a chart for each of the groups."""
    sheet = Sheet("Reward ledger", subtitle, 1, len(groups), 210)
    shades: dict[str, str] = {}
    for axes, (name, curves) in zip(sheet.axes, groups, strict=True):
        plain_axes(axes, name, x="step", ticks=5)
        for curve in curves:
            term = curve.metric.rpartition("/")[2]
            shade = shades.setdefault(term, "ink" if term == "total" else SERIES[len(shades) % len(SERIES)])
            _draw(axes, curve, shade, band=False, label=term.replace("_", " "))
    sheet.legend(sheet.axes[0])
    return sheet


def staleness(subtitle: str, counts: Sequence[int], course: Curve | None) -> Sheet:
    """How many prompts were how many versions behind, and how that went."""
    sheet = Sheet("Staleness", subtitle, 1, bool(counts) + (course is not None), 150)
    left = iter(sheet.axes)
    if counts:
        axes, whole = next(left), max(sum(counts), 1)
        plain_axes(axes, "% of prompts, by versions behind")
        axes.xaxis.set_major_locator(FixedLocator(range(len(counts))))
        shares = [100 * count / whole for count in counts]
        drawn = axes.bar(range(len(counts)), shares, color=light("series0"), width=0.6)
        axes.bar_label(drawn, [f"{share:.3g}" for share in shares], size=7.5, padding=2)
        axes.set_xlim(-0.6, max(len(counts), 4) - 0.4)
        axes.set_ylim(0, 112)
    if course is not None:
        axes = next(left)
        plain_axes(axes, "mean of a step", number(float(course.means[-1])), x="step", ticks=5)
        _draw(axes, course, "series0", band=True)
    return sheet


def utilisation_timeline(subtitle: str, found: Utilisation) -> Sheet:
    """Idle shares over time, then for each role how many processes were at what, one part on the other."""
    sheet = Sheet("Utilisation", subtitle, 1 + len(found.roles), 1, 120)
    minutes, unit = found.minutes, "minutes"
    if minutes[-1] < BRIEF:
        minutes, unit = 60 * minutes, "seconds"
    top = sheet.axes[0]
    plain_axes(top, "idle, % of their time", ticks=8)
    for place, (name, share) in enumerate(found.idle.items()):
        top.stairs(100 * share, minutes, baseline=None, color=light(SERIES[place]), linewidth=1.4, label=name)
    top.set_ylim(0, 105)
    if found.idle:
        legend(top)
    for axes, role in zip(sheet.axes[1:], found.roles, strict=True):
        plain_axes(axes, f"{role.name}: processes at", ticks=8)
        shades = [
            light("rest") if part == WAITING else light(SERIES[place % len(SERIES)])
            for place, part in enumerate(role.parts)
        ]
        # Flat between two points: what is known are means over the time between them.
        edges = np.repeat(minutes, 2)[1:-1]
        heights = [np.repeat(values, 2) for values in role.parts.values()]
        axes.stackplot(edges, heights, labels=list(map(clean, role.parts)), colors=shades, linewidth=0)
        axes.set_ylim(bottom=0)
        legend(axes)
    sheet.axes[-1].set_xlabel(f"{unit} of work since the stage began", size=7.5)
    for axes in sheet.axes:
        axes.set_xlim(minutes[0], minutes[-1])
    return sheet


def intervals(
    title: str, subtitle: str, rows: Sequence[tuple[str, float, Sequence[float]]], reference: int = 0
) -> Sheet:
    """Values with their intervals below one another; that of the row `reference` as a band behind all."""
    sheet = Sheet(title, subtitle, 1, 1, 24 * len(rows) + 16, wide=True)
    (axes,) = sheet.axes
    plain_axes(axes, "", ticks=8)
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    low, high = rows[reference][2]
    axes.axvspan(low, high, color=light("rest"), alpha=0.35, linewidth=0)
    for place, (_, value, ends) in enumerate(rows):
        shade = light("muted" if place == reference else "series0")
        axes.plot(ends, [place, place], color=shade, linewidth=2)
        axes.plot([value], [place], "o", color=shade, markersize=5)
    axes.yaxis.set_major_locator(FixedLocator(range(len(rows))))
    axes.set_yticklabels([clean(name) for name, *_ in rows], size=8.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.spines["left"].set_visible(False)
    return sheet


def evaluations(
    subtitle: str, stages: Sequence[tuple[str, Sequence[tuple[int, float, Sequence[float]]]]]
) -> Sheet:
    """Validation NDCG@10 with its interval over the evaluations of each stage, on one scale."""
    columns = min(3, len(stages))
    sheet = Sheet("Validation NDCG@10 while training", subtitle, -(-len(stages) // columns), columns, 150)
    sheet.drop(len(stages))
    ends = [end for _, points in stages for _, value, interval in points for end in (*interval, value)]
    room = 0.06 * (max(ends) - min(ends)) or 0.01
    for axes, (name, points) in zip(sheet.axes, stages, strict=False):
        steps = [step for step, *_ in points]
        values = [value for _, value, _ in points]
        plain_axes(axes, name, number(max(values)), x="step")
        axes.fill_between(
            steps,
            [interval[0] for *_, interval in points],
            [interval[1] for *_, interval in points],
            color=light("series0"),
            alpha=0.16,
            linewidth=0,
        )
        axes.plot(steps, values, marker="o", markersize=3.5, color=light("series0"))
        best = int(np.argmax(values))
        axes.plot(
            steps[best], values[best], "o", markersize=8, markerfacecolor="none", color=light("series1")
        )
        axes.set_ylim(min(ends) - room, max(ends) + room)
    return sheet


def scaling(
    subtitle: str,
    sampled: Sequence[tuple[str, Sequence[tuple[int, float, Sequence[float]]]]],
    level: Sequence[tuple[str, float]],
) -> Sheet:
    """NDCG@10 by the number of sampled thoughts, one line a model and beam; other ways of thinking as levels."""
    sheet = Sheet("Test-time scaling", subtitle, 1, 1, 230)
    (axes,) = sheet.axes
    plain_axes(axes, "NDCG@10", x="sampled sequences of thoughts for a user", ticks=6)
    counts = sorted({count for _, points in sampled for count, *_ in points})
    for place, (name, points) in enumerate(sampled):
        shade = light(SERIES[place % len(SERIES)])
        counted = [count for count, *_ in points]
        values = [value for _, value, _ in points]
        below = [max(0.0, value - ends[0]) for _, value, ends in points]
        above = [max(0.0, ends[1] - value) for _, value, ends in points]
        axes.errorbar(
            counted,
            values,
            [below, above],
            marker="o",
            markersize=4,
            capsize=3,
            color=shade,
            label=clean(name),
        )
    for place, (name, value) in enumerate(level):
        shade = light(SERIES[(len(sampled) + place) % len(SERIES)])
        axes.axhline(value, color=shade, linestyle="--", label=clean(name))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda tick, _: f"{tick:g}")
    legend(axes, columns=2)
    return sheet


def rounds(
    subtitle: str, series: Sequence[tuple[str, Sequence[tuple[str, Sequence[tuple[float, float]]]]]]
) -> Sheet:
    """Charts side by side, each of named lines of points (x, y)."""
    sheet = Sheet("Thinking by round of SFT", subtitle, 1, len(series), 170)
    for axes, (name, drawn) in zip(sheet.axes, series, strict=True):
        plain_axes(axes, name, ticks=5)
        for place, (label, points) in enumerate(drawn):
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                marker="o",
                markersize=3.5,
                color=light(SERIES[place % len(SERIES)]),
                label=clean(label),
            )
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        legend(axes, inside=True)
    return sheet


def _draw(axes: Axes, curve: Curve, shade: str, band: bool, label: str = "") -> None:
    colour = light(shade)
    if band and (curve.highs > curve.lows).any():
        axes.fill_between(curve.steps, curve.lows, curve.highs, color=colour, alpha=0.16, linewidth=0)
    marker: dict[str, Any] = {}
    if len(curve.steps) <= FEW:
        marker = {"marker": "o", "markersize": 2.5 if len(curve.steps) > 1 else 5}
    axes.plot(curve.steps, curve.means, color=colour, label=clean(label) or None, **marker)


def _limit(axes: Axes, curve: Curve) -> None:
    """Show means whole, a band as far as it is not far beyond them, and say where a few values lie outside."""
    low, high = curve.span
    if len(curve.means) >= MANY:
        inner = np.quantile(curve.means, [0.02, 0.98])
        if high - low > OUTLYING * (inner[1] - inner[0]) > 0:
            beyond = [
                f"{sign} {number(end)}"
                for sign, end, inside in (("↓", low, inner[0]), ("↑", high, inner[1]))
                if end != inside
            ]
            axes.text(
                0.99,
                0.97,
                "  ".join(beyond),
                transform=axes.transAxes,
                ha="right",
                va="top",
                size=7,
                color=light("muted"),
            )
            low, high = inner
    height = (high - low) or abs(high) or 1.0
    bottom = max(min(low, float(curve.lows.min())), low - height)
    top = min(max(high, float(curve.highs.max())), high + height)
    room = 0.05 * ((top - bottom) or height)
    axes.set_ylim(bottom - room, top + room)


def _same_prefix(curves: Sequence[Curve]) -> bool:
    """Whether all names begin with the same `word/`."""
    return len({curve.metric.rpartition("/")[0] for curve in curves}) == 1
