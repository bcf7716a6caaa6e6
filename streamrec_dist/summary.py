"""What a run did, reduced from its events in bounded memory: what views, reports and exports show.

It is kept beside the events (summary_file.py), so that a reader takes it and the events after it, however long the
run is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import msgpack
from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, TypeAdapter, ValidationError

from streamrec_dist.course import Course
from streamrec_dist.errors import DataError
from streamrec_dist.events import ENDED, LARGEST, LATEST, WORKER_FIELDS, Count, Event, Metrics
from streamrec_dist.json_file import first_problem
from streamrec_dist.rundir import STAGES

#: What is kept of events that a person reads one by one: the newest.
WARNINGS, ROUNDS, EVALUATIONS = 100, 100, 500
#: Steps over which the rate is taken.
RATE_WINDOW = 30
#: Metrics of one stage that are followed, and stages; a file of events may come from anybody.
METRICS, NAMES = 200, 50
#: Characters of what describes a run.
WORDS = 500
#: Versions behind that are told apart.
STALENESS = 64
#: Processes of which a state is kept.
PROCESSES = 2000

Time = Annotated[float, Field(ge=0, lt=LATEST)]
Courses = dict[str, Annotated[Course, PlainValidator(Course.restored), PlainSerializer(Course.state)]]


def _newest(count: int) -> AfterValidator:
    """The restored ones are bounded as they were; of a file that holds more the newest are taken."""
    return AfterValidator(lambda found: deque(found, maxlen=count))


@dataclass
class StageSummary:
    """One stage or baseline: where it is, and the course of what it measured."""

    name: str
    state: str = "waiting"
    step: Count = 0
    total: Count = 0
    started: Time = 0.0
    ended: Time = 0.0
    metrics: Metrics = field(default_factory=dict)
    courses: Courses = field(default_factory=dict)
    evaluated: Courses = field(default_factory=dict)
    evaluations: Annotated[deque[Event], _newest(EVALUATIONS)] = field(
        default_factory=partial(deque, maxlen=EVALUATIONS)
    )
    rounds: Annotated[deque[Event], _newest(ROUNDS)] = field(default_factory=partial(deque, maxlen=ROUNDS))
    #: The newest event of an annotation that goes on.
    annotation: Event | None = None
    #: Prompts trained on, by how many versions their rollouts were behind.
    staleness: Annotated[list[Count], AfterValidator(lambda found: found[:STALENESS])] = field(
        default_factory=list
    )
    steps: Annotated[deque[tuple[Time, Count]], _newest(RATE_WINDOW)] = field(
        default_factory=partial(deque, maxlen=RATE_WINDOW)
    )

    def rate(self) -> float | None:
        """Steps a second over the last steps, or None before there are two."""
        if len(self.steps) < 2:
            return None
        (first_time, first), (last_time, last) = self.steps[0], self.steps[-1]
        return (last - first) / (last_time - first_time) if last_time > first_time and last > first else None

    def seconds_left(self) -> float | None:
        """Seconds to the last step at the rate of the last steps."""
        rate = self.rate()
        return (self.total - self.step) / rate if rate and self.total >= self.step else None

    @property
    def evaluation(self) -> Event | None:
        """The newest."""
        return self.evaluations[-1] if self.evaluations else None


@dataclass
class RunSummary:
    """One run. `ended` is empty while it goes, else done, failed or stopped."""

    run: str
    stages: dict[str, StageSummary] = field(
        default_factory=lambda: {name: StageSummary(name) for name in STAGES}
    )
    stage: str = ""
    ended: str = ""
    message: str = ""
    first: Time = 0.0
    last: Time = 0.0
    paused: bool = False
    planned: list[str] = field(default_factory=list)  # what it was last started for
    lives: Count = 0  # how often it was started
    begun: Time = 0.0  # when it last was
    environment: dict[str, str] = field(default_factory=dict)  # versions and machines, as of its last start
    #: Processes of the roles, as they were last told of.
    processes: list[dict[str, Any]] = field(default_factory=list)
    told: Time = 0.0  # when
    warned: Count = 0
    warnings: Annotated[deque[Event], _newest(WARNINGS)] = field(
        default_factory=partial(deque, maxlen=WARNINGS)
    )

    def apply(self, event: Event) -> None:
        self.first = self.first or event.t
        self.last = event.t or self.last
        take = {
            "run": self._take_run,
            "stage": self._take_stage,
            "step": self._take_step,
            "eval": self._take_evaluation,
            "round": self._take_round,
            "annotate": self._take_annotation,
            "warning": self._take_warning,
            "workers": self._take_workers,
        }.get(event.kind)
        if take:
            take(event)

    def apply_all(self, events: Iterable[Event]) -> RunSummary:
        for event in events:
            self.apply(event)
        return self

    def evaluation(self) -> Event | None:
        """The newest of any stage."""
        newest = [stage.evaluation for stage in self.stages.values() if stage.evaluation]
        return max(newest, key=lambda event: event.t, default=None)

    def current(self) -> StageSummary | None:
        return self.stages.get(self.stage)

    def _take_run(self, event: Event) -> None:
        self.paused = event.state == "paused"
        if event.state in ("paused", "resumed"):
            self.ended = ""
            self._forget_rates()
            return
        self.ended = event.state if event.state in ENDED else ""
        self.message = event.message
        if not self.ended:
            self.lives += 1
            self.begun = event.t
            planned = event.metrics.get("stages")
            self.planned = [str(name) for name in planned[:NAMES]] if isinstance(planned, list) else []
            self.environment = _texts(event.metrics.get("environment"))
            self.processes = []
            self._forget_rates()

    def _forget_rates(self) -> None:
        """The time between two parts of a run is no part of its rate."""
        for stage in self.stages.values():
            stage.steps.clear()

    def _take_stage(self, event: Event) -> None:
        stage = self._stage(event.stage)
        stage.state, stage.annotation = event.state, None
        stage.total = event.total or stage.total
        if event.state == "started":
            self.stage = event.stage
            stage.started, stage.ended = event.t, 0.0
        else:
            stage.ended = event.t
            stage.metrics.update(event.metrics)

    def _take_step(self, event: Event) -> None:
        self.stage = event.stage
        stage = self._stage(event.stage)
        stage.started = stage.started or event.t
        stage.state, stage.annotation = "started", None
        stage.step, stage.total = event.step, event.total or stage.total
        stage.metrics.update(event.metrics)
        if stage.steps and event.step <= stage.steps[-1][1]:
            stage.steps.clear()
        stage.steps.append((event.t, event.step))
        _follow(stage.courses, event.step, event.metrics)
        _count(stage.staleness, event.metrics.get("staleness_counts"))

    def _take_evaluation(self, event: Event) -> None:
        stage = self._stage(event.stage)
        stage.annotation = None
        stage.evaluations.append(event)
        _follow(stage.evaluated, event.step, event.metrics)

    def _take_round(self, event: Event) -> None:
        self._stage(event.stage).rounds.append(event)

    def _take_annotation(self, event: Event) -> None:
        self._stage(event.stage).annotation = event

    def _take_warning(self, event: Event) -> None:
        self.warned += 1
        self.warnings.append(event)

    def _take_workers(self, event: Event) -> None:
        found = event.metrics.get("processes")
        rows = found[:PROCESSES] if isinstance(found, list) else []
        self.processes = [
            {name: row.get(name) for name in WORKER_FIELDS} for row in rows if isinstance(row, dict)
        ]
        self.told = event.t

    def _stage(self, name: str) -> StageSummary:
        if name not in self.stages and len(self.stages) >= NAMES:
            return StageSummary(name)
        return self.stages.setdefault(name, StageSummary(name))

    def packed(self) -> bytes:
        """What `unpacked` makes it of again: msgpack of plain values."""
        return msgpack.packb(_SUMMARY.dump_python(self), default=list)

    @staticmethod
    def unpacked(content: bytes) -> RunSummary:
        """Raises DataError for what `packed` has not made."""
        try:
            return _SUMMARY.validate_python(msgpack.unpackb(content))
        except ValidationError as error:
            raise DataError(f"not a summary of a run ({first_problem(error)})") from None
        except (msgpack.UnpackException, ValueError) as error:
            raise DataError(f"not a summary of a run ({error})") from None


def _texts(found: Any) -> dict[str, str]:
    """Name -> text, both short, NAMES of them at most."""
    rows = list(found.items())[:NAMES] if isinstance(found, dict) else []
    return {str(name)[:WORDS]: str(value)[:WORDS] for name, value in rows}


def _follow(courses: dict[str, Course], step: int, metrics: Mapping[str, Any]) -> None:
    """Add the metrics that are numbers to their courses."""
    for name, value in metrics.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            course = courses.get(name)
            if course is None:
                if len(courses) >= METRICS:
                    continue
                course = courses[name] = Course()
            course.add(step, float(value))


def _count(counts: list[int], more: Any) -> None:
    """Add what was counted in one step."""
    for behind, number in enumerate(more[:STALENESS] if isinstance(more, list) else ()):
        if isinstance(number, int) and number >= 0:
            counts += [0] * (behind + 1 - len(counts))
            counts[behind] = min(counts[behind] + number, LARGEST - 1)


_SUMMARY = TypeAdapter(RunSummary)
