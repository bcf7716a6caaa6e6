"""Curves of metrics, as `report` and `plot` draw them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from streamrec_dist.course import Course
from streamrec_dist.summary import RunSummary, StageSummary

#: Curves of one chart at most, and how many times the range of each all together may span.
TOGETHER, LIKE = 6, 4.0


@dataclass(frozen=True, eq=False)
class Curve:
    """A metric of a stage: means over ranges of steps around `steps`, the lowest and highest values; float64 [n]."""

    run: str
    stage: str
    metric: str
    steps: np.ndarray
    means: np.ndarray
    lows: np.ndarray
    highs: np.ndarray

    @staticmethod
    def of(run: str, stage: str, metric: str, course: Course, points: int) -> Curve:
        """A course in at most so many points."""
        thin = course.thinned(points)
        lows, highs = thin.ranges().T
        return Curve(run, stage, metric, thin.steps(), thin.means(), lows, highs)

    @property
    def span(self) -> tuple[float, float]:
        return float(self.means.min()), float(self.means.max())


def courses(stage: StageSummary) -> dict[str, Course]:
    """All that a stage measured, in its steps and in its evaluations, by name."""
    found = {**stage.evaluated, **stage.courses}
    return {name: course for name, course in found.items() if course.buckets}


def curves(summary: RunSummary, points: int) -> list[Curve]:
    """All metrics of all stages of a run."""
    return [
        Curve.of(summary.run, stage.name, name, course, points)
        for stage in summary.stages.values()
        for name, course in courses(stage).items()
    ]


def charts(found: Iterable[Curve]) -> list[list[Curve]]:
    """Curves by chart: of one stage, and each with a range that can still be seen beside those of the others."""
    made: list[list[Curve]] = []
    for curve in found:
        for chart in made:
            if chart[0].stage == curve.stage and len(chart) < TOGETHER and _alike([*chart, curve]):
                chart.append(curve)
                break
        else:
            made.append([curve])
    return made


def _alike(chart: Sequence[Curve]) -> bool:
    low, high = span(chart)
    heights = [top - bottom for bottom, top in (curve.span for curve in chart)]
    rising = [height for height in heights if height > 0]
    return high - low <= LIKE * min(rising) if rising else high == low


def span(chart: Sequence[Curve]) -> tuple[float, float]:
    """The lowest and the highest mean of several curves."""
    return min(curve.span[0] for curve in chart), max(curve.span[1] for curve in chart)
