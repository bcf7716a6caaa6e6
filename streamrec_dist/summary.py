"""What a run did, reduced from its events in bounded memory: what views, reports and exports show.

It is kept beside the events (summary_file.py), so that a reader takes it and the events after it, however long the
run is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
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
#: Steps over which the rate is taken, and those that are kept as they were: what is so lately is so in these.
RATE_WINDOW, LATELY = 30, 10
#: Metrics of one stage that are followed, and stages; a file of events may come from anybody.
METRICS, NAMES = 200, 50
#: Characters of what describes a run.
WORDS = 500
#: Versions behind that are told apart.
STALENESS = 64
#: Processes of which a state is kept.
PROCESSES = 2000

#: A run of which nothing was heard for so long may be one that nobody works on.
SILENCE_S = 60.0

Time = Annotated[float, Field(ge=0, lt=LATEST)]
ValidCourse = Annotated[Course, PlainValidator(Course.restored), PlainSerializer(Course.state)]
Courses = dict[str, ValidCourse]


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
    rested: Time = 0.0  # seconds since it was started in which the user had it paused
    metrics: Metrics = field(default_factory=dict)  # of the newest step
    outcome: Metrics = field(default_factory=dict)  # of the stage, once it is done
    #: Steps of stage retrieve begin anew with each fold: the one that it is at, 0 for all users.
    fold: Count = 0
    #: Of steps of a fold by `prefix` and name.
    courses: Courses = field(default_factory=dict)
    evaluated: Courses = field(default_factory=dict)
    evaluations: Annotated[deque[Event], _newest(EVALUATIONS)] = field(
        default_factory=partial(deque, maxlen=EVALUATIONS)
    )
    rounds: Annotated[deque[Event], _newest(ROUNDS)] = field(default_factory=partial(deque, maxlen=ROUNDS))
    #: The newest event of an annotation that goes on.
    annotation: Event | None = None
    #: Prompts trained on, by how many versions their rollouts were behind.
    behind: Annotated[list[ValidCourse], AfterValidator(lambda found: found[:STALENESS])] = field(
        default_factory=list
    )
    #: Numbers of the newest steps.
    latest: Annotated[deque[tuple[Count, Metrics]], _newest(LATELY)] = field(
        default_factory=partial(deque, maxlen=LATELY)
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

    @property
    def staleness(self) -> list[int]:
        """Prompts trained on, by how many versions their rollouts were behind, 0 first."""
        return [round(sum(bucket.total for bucket in course.buckets)) for course in self.behind]

    @property
    def prefix(self) -> str:
        """What the names of its present courses begin with."""
        return f"fold-{self.fold}/" if self.fold else ""

    def take(self, event: Event) -> None:
        """Take a step. Those that are made again take the place of what was made of them and after them."""
        fold = event.metrics.get("fold")
        fold = min(fold, LARGEST - 1) if isinstance(fold, int) and fold > 0 else 0
        if fold != self.fold:
            self.fold = fold
            self.latest.clear()
        elif event.step <= self.step:
            self._go_back(event.step)
        if self.steps and event.step <= self.steps[-1][1]:
            self.steps.clear()
        self.step, self.total = event.step, event.total or self.total
        self.metrics = dict(event.metrics)
        self.steps.append((event.t, event.step))
        numbers = _numbers(event.metrics)
        self.latest.append((event.step, numbers))
        if fold:
            numbers = {name: value for name, value in numbers.items() if name != "fold"}
        _follow(self.courses, event.step, numbers, self.prefix)
        _count(self.behind, event.step, event.metrics.get("staleness_counts"))

    def _go_back(self, step: int) -> None:
        while self.latest and self.latest[-1][0] >= step:
            self.latest.pop()
        # Those of the retriever are of its training on all users.
        if not self.fold:
            self.evaluations = deque((one for one in self.evaluations if one.step < step), EVALUATIONS)
            for course in self.evaluated.values():
                course.cut(step)
            self.evaluated = {name: course for name, course in self.evaluated.items() if course.buckets}


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
    paused_at: Time = 0.0  # when it last was
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
        if (event.kind, event.state) == ("run", "started"):
            self._halt()
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

    def state_at(self, now: float) -> str:
        """done, failed, stopped, paused or going; silent where nothing has come for long."""
        going = "going" if now - self.last < SILENCE_S else "silent"
        return self.ended or ("paused" if self.paused else going)

    def current(self) -> StageSummary | None:
        return self.stages.get(self.stage)

    def _take_run(self, event: Event) -> None:
        stage = self.current()
        if self.paused and stage:
            stage.rested += max(0.0, event.t - self.paused_at)
        self.paused, self.paused_at = event.state == "paused", event.t
        if event.state in ("paused", "resumed"):
            self.ended = ""
            self._forget_rates()
            return
        self.ended = event.state if event.state in ENDED else ""
        self.message = event.message
        if self.ended:
            for row in self.processes:
                row |= {"state": "ended", "rate": None}
        else:
            self.lives += 1
            self.begun = event.t
            planned = event.metrics.get("stages")
            self.planned = [str(name) for name in planned[:NAMES]] if isinstance(planned, list) else []
            self.environment = _texts(event.metrics.get("environment"))
            self.processes = []
            self._forget_rates()

    def _halt(self) -> None:
        """A stage that somebody worked on before is at work no more, whatever is begun now."""
        for stage in self.stages.values():
            if stage.state == "started":
                stage.state, stage.ended = "halted", self.last

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
            stage.started, stage.ended, stage.rested = event.t, 0.0, 0.0
        else:
            stage.ended = event.t
            stage.outcome = dict(event.metrics)

    def _take_step(self, event: Event) -> None:
        self.stage = event.stage
        stage = self._stage(event.stage)
        stage.started = stage.started or event.t
        stage.state, stage.annotation = "started", None
        stage.take(event)

    def _take_evaluation(self, event: Event) -> None:
        stage = self._stage(event.stage)
        stage.annotation = None
        stage.evaluations.append(event)
        _follow(stage.evaluated, event.step, _numbers(event.metrics))

    def _take_round(self, event: Event) -> None:
        rounds = self._stage(event.stage).rounds
        while rounds and rounds[-1].step >= event.step:
            rounds.pop()
        rounds.append(event)

    def _take_annotation(self, event: Event) -> None:
        stage = self._stage(event.stage)
        stage.annotation = event
        # The time that it takes is none of the steps'.
        stage.steps.clear()

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


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are numbers, METRICS of them at most."""
    numbers = (
        (name, float(value))
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    )
    return dict(islice(numbers, METRICS))


def _follow(courses: dict[str, Course], step: int, numbers: Mapping[str, float], prefix: str = "") -> None:
    for name, value in numbers.items():
        course = courses.get(prefix + name)
        if course is None:
            if len(courses) >= METRICS:
                continue
            course = courses[prefix + name] = Course()
        course.add(step, value)


def _count(courses: list[Course], step: int, counts: Any) -> None:
    """Add what was counted in one step; where it was nothing too, so that all courses have all steps."""
    found = counts[:STALENESS] if isinstance(counts, list) else []
    courses += [Course() for _ in range(len(found) - len(courses))]
    for behind, course in enumerate(courses):
        number = found[behind] if behind < len(found) else 0
        course.add(step, min(number, LARGEST) if isinstance(number, int) and number > 0 else 0)


_SUMMARY = TypeAdapter(RunSummary)
