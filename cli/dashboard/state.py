"""What a view shows, reduced from the events of a run. Pure: no clock, no terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from streamrec_dist.events import ENDED, Event
from streamrec_dist.rundir import STAGES

RATE_WINDOW = 30
SERIES_LENGTH = 4000
WARNINGS = 3


@dataclass
class StageState:
    """One stage: where it is and what it measured last."""

    name: str
    state: str = "waiting"
    step: int = 0
    total: int = 0
    started: float = 0.0
    ended: float = 0.0
    metrics: dict[str, Any] = field(default_factory=dict)
    series: dict[str, deque[float]] = field(default_factory=dict)
    steps: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RATE_WINDOW))

    def rate(self) -> float | None:
        """Steps a second over the last steps, or None before there are two."""
        if len(self.steps) < 2:
            return None
        (first_time, first), (last_time, last) = self.steps[0], self.steps[-1]
        return (last - first) / (last_time - first_time) if last_time > first_time and last > first else None

    def seconds_left(self) -> float | None:
        rate = self.rate()
        return (self.total - self.step) / rate if rate and self.total >= self.step else None


@dataclass
class ViewState:
    """One run. `ended` is empty while it goes, else done, failed or stopped."""

    run: str
    stages: dict[str, StageState] = field(default_factory=lambda: {name: StageState(name) for name in STAGES})
    stage: str = ""
    ended: str = ""
    message: str = ""
    first: float = 0.0
    last: float = 0.0
    evaluation: Event | None = None
    round: Event | None = None
    warnings: deque[str] = field(default_factory=lambda: deque(maxlen=WARNINGS))

    def apply(self, event: Event) -> None:
        self.first = self.first or event.t
        self.last = event.t
        if event.kind == "run":
            self._apply_run(event)
        elif event.kind == "stage":
            self._apply_stage(event)
        elif event.kind == "step":
            self._apply_step(event)
        elif event.kind == "eval":
            self.evaluation = event
        elif event.kind == "round":
            self.round = event
        elif event.kind == "warning":
            self.warnings.append(event.message)

    def apply_all(self, events: Iterable[Event]) -> ViewState:
        for event in events:
            self.apply(event)
        return self

    def current(self) -> StageState | None:
        return self.stages.get(self.stage)

    def _apply_run(self, event: Event) -> None:
        self.ended = event.state if event.state in ENDED else ""
        self.message = event.message
        if event.state in ("started", "resumed"):
            for stage in self.stages.values():
                # The time between two parts of a run is not part of its rate.
                stage.steps.clear()

    def _apply_stage(self, event: Event) -> None:
        stage = self._stage(event.stage)
        stage.state = event.state
        stage.total = event.total or stage.total
        if event.state == "started":
            self.stage = event.stage
            stage.started, stage.ended = event.t, 0.0
        else:
            stage.ended = event.t
            stage.metrics.update(event.metrics)

    def _apply_step(self, event: Event) -> None:
        self.stage = event.stage
        stage = self._stage(event.stage)
        stage.started = stage.started or event.t
        stage.state = "started"
        stage.step, stage.total = event.step, event.total or stage.total
        stage.metrics.update(event.metrics)
        if stage.steps and event.step <= stage.steps[-1][1]:
            stage.steps.clear()
        stage.steps.append((event.t, event.step))
        for name, value in event.metrics.items():
            if isinstance(value, int | float):
                stage.series.setdefault(name, deque(maxlen=SERIES_LENGTH)).append(float(value))

    def _stage(self, name: str) -> StageState:
        return self.stages.setdefault(name, StageState(name))
