"""What is shown: a run, what its configuration says of it, and the moment."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from streamrec_dist.config import Config
from streamrec_dist.course import Course
from streamrec_dist.summary import RunSummary, StageSummary


@dataclass(frozen=True)
class Scene:
    """A run at the moment `now` (seconds since the epoch). `lost`: nobody works on it, though it has not ended."""

    summary: RunSummary
    now: float
    config: Config | None = None
    #: Finished stages that it has from another run, and NDCG@10 of SFT there.
    taken: frozenset[str] = frozenset()
    taken_ndcg: float | None = None
    lost: bool = False
    ascii_only: bool = False
    #: The stage that is looked at, where it is not the current one.
    at: str = ""

    @property
    def stage(self) -> StageSummary | None:
        """The one that is shown."""
        return self.summary.stages.get(self.at) or self.summary.current()

    def beside(self, places: int) -> str:
        """What `at` is for the stage so many places after the one shown, of those that measured anything."""
        known = [name for name, stage in self.summary.stages.items() if stage.step or stage.evaluations]
        if self.stage is None or self.stage.name not in known:
            return self.at
        place = known.index(self.stage.name) + places
        name = known[min(max(place, 0), len(known) - 1)]
        return "" if name == self.summary.stage else name

    @property
    def ended(self) -> str:
        """done, failed, stopped or lost; empty while the run goes."""
        return self.summary.ended or ("lost" if self.lost else "")

    @property
    def until(self) -> float:
        """Where times that still run stand."""
        return self.summary.last if self.ended else max(self.now, self.summary.last)

    @property
    def silent(self) -> float:
        """Seconds since the last event."""
        return max(0.0, self.now - self.summary.last) if self.summary.last else 0.0

    def value(self, name: str) -> float | None:
        """A measure of the current stage as it was last, in one of its newest steps; None where none has it."""
        values = self.lately(name)
        return values[-1] if values else None

    def lately(self, name: str) -> list[float]:
        """The values of a measure in those of the newest steps of the current stage (LATELY) that have it."""
        steps = self.stage.latest if self.stage else ()
        return [value for _, numbers in steps if (value := figure(numbers.get(name))) is not None]

    def mean(self, name: str) -> float | None:
        """The mean of these."""
        found = self.lately(name)
        return sum(found) / len(found) if found else None

    def each_step(self, name: str) -> float:
        """The mean over the newest steps of what is 0 in a step that does not have it."""
        return sum(self.lately(name)) / len(self.stage.latest) if self.stage and self.stage.latest else 0.0

    def course(self, name: str) -> Course | None:
        return self.stage.courses.get(self.stage.prefix + name) if self.stage else None

    def means(self, name: str) -> np.ndarray:
        """The course of a measure, float64 [n]."""
        course = self.course(name)
        return course.means() if course else np.zeros(0)


def figure(value: object) -> float | None:
    """A number of a file that may come from anybody; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def figures(value: object) -> list[float]:
    """The numbers of a list, likewise."""
    found = [figure(item) for item in value] if isinstance(value, list) else []
    return [number for number in found if number is not None]
