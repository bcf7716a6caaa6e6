"""What the controller hands to a stage."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamrec_dist.baselines.config import SCORES_ITEMS
from streamrec_dist.config import Config
from streamrec_dist.data.split import rows_of_some, split_rows
from streamrec_dist.errors import StreamRecError
from streamrec_dist.events import Event
from streamrec_dist.materials import Materials
from streamrec_dist.metrics import measured, ranking_metrics
from streamrec_dist.rl.ports import (
    Annotators,
    Evaluators,
    Learners,
    Published,
    Publisher,
    Rewards,
    Rollouts,
    Runtime,
    Store,
    Task,
)
from streamrec_dist.rundir import Checkpoint
from streamrec_dist.spans import Timeline
from streamrec_dist.statistics import bootstrap_intervals

#: The longest any single piece of work may take before the run ends with an error that names it.
DEADLINE_S = 1800.0
#: Seconds of training between two reports of stages 1 and 2; a report has an event a step.
REPORT_S = 2.0
#: How often a paused stage looks whether it may go on.
REST_S = 0.2
#: Users of an evaluation of whom the unconstrained beam is looked at: one in so many.
INVALID_EACH = 10


class Stopped(StreamRecError):
    """The user asked the run to stop; the stage has written a checkpoint."""


class Regroup(StreamRecError):
    """The learners are to be another number; the stage has written a checkpoint, which they go on from."""


@dataclass
class Evaluation:
    """Weights at work on validation rows, parts of int64 [n, 2]: a task for each, and that of the invalid beams."""

    parts: list[np.ndarray]
    ranks: list[Task]
    invalid: Task | None
    began: float

    @property
    def tasks(self) -> list[Task]:
        return [*self.ranks, *([self.invalid] if self.invalid else [])]


@dataclass
class Context:
    """One run's materials and the roles that work on it."""

    config: Config
    materials: Materials
    runtime: Runtime
    learners: Learners
    store: Store
    evaluators: Evaluators
    publisher: Publisher
    annotators: Annotators | None = None
    rollouts: Rollouts | None = None
    rewards: Rewards | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    regroup: threading.Event = field(default_factory=threading.Event)
    #: Set while the user has the run paused; set until a checkpoint that the user asked for is written.
    pausing: threading.Event = field(default_factory=threading.Event)
    keeping: threading.Event = field(default_factory=threading.Event)
    timeline: Timeline = field(default_factory=Timeline)
    #: Seconds that the stage was paused.
    rested_s: float = 0.0
    #: Where the stage is, for whoever asks from another thread.
    progress: dict[str, Any] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic

    def step(self, stage: str, step: int, total: int, metrics: Mapping[str, Any], **further: Any) -> None:
        """Report a step that ended just now; `further` is what whoever asks where the stage is learns beside it."""
        # In one go: another thread reads it.
        self.progress = {"step": step, "total": total, **further}
        self.store.emit(Event("step", stage, step=step, total=total, metrics=dict(metrics)))

    def steps(self, stage: str, first: int, total: int, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Report steps `first`.. that ended just now, each with the `seconds` that it took."""
        self.progress = {"step": first + len(metrics) - 1, "total": total}
        ended, events = time.time(), []
        for step, values in reversed(list(enumerate(metrics, start=first))):
            events.append(Event("step", stage, step=step, total=total, metrics=dict(values), t=ended))
            ended -= values["seconds"]
        self.store.emit(*reversed(events))

    def evaluation_rows(self, users: int) -> np.ndarray:
        """The validation rows int64 [n, 2] of a fixed random choice of users."""
        rows = split_rows(self.materials.corpus, "valid")
        return rows_of_some(rows, users, np.random.default_rng([self.config.seed, 2]))

    def evaluation_parts(self, users: int) -> list[np.ndarray]:
        """The same rows, a share for each evaluator."""
        rows = self.evaluation_rows(users)
        return np.array_split(rows, min(self.evaluators.replicas, len(rows)))

    def evaluate(self, stage: str, model: str, step: int, users: int, weights: Published) -> dict[str, Any]:
        """Rank the validation targets of some users and emit the metrics."""
        metrics, _ = self.finish_evaluation(stage, step, self.start_evaluation(model, users, weights))
        return metrics

    def start_evaluation(self, model: str, users: int, weights: Published) -> Evaluation:
        """Have the validation targets of some users ranked, and the unconstrained beam of a few of them looked at."""
        parts = self.evaluation_parts(users)
        began = time.time()
        ranks = [self.evaluators.ranks(model, part, False, weights) for part in parts]
        invalid = None
        if model not in SCORES_ITEMS:
            some = self.evaluation_rows(-(-users // INVALID_EACH))
            invalid = self.evaluators.invalid_share(model, some, weights)
        return Evaluation(parts, ranks, invalid, began)

    def finish_evaluation(
        self, stage: str, step: int, evaluation: Evaluation, first: np.ndarray | None = None
    ) -> tuple[dict[str, Any], np.ndarray]:
        """Wait for an evaluation, and emit its metrics; these, and the ranks int64 [n] of all targets.

        `first` [n] are ranks of the same targets that it is to be compared with.
        """
        ranks, invalid = [self._evaluated(task) for task in evaluation.ranks], None
        if evaluation.invalid:
            invalid = self._evaluated(evaluation.invalid)
        self.timeline.did("evaluate", evaluation.began)
        rows, found = np.concatenate(evaluation.parts), np.concatenate(ranks)
        return self.report_ranks(stage, step, rows, found, invalid, first), found

    def _evaluated(self, task: Task) -> Any:
        return self.runtime.receipt(task, "evaluation", DEADLINE_S)

    def report_ranks(
        self,
        stage: str,
        step: int,
        rows: np.ndarray,
        ranks: np.ndarray,
        invalid: float | None = None,
        first: np.ndarray | None = None,
    ) -> dict[str, Any]:
        """Emit the metrics of `ranks` [n], those of the targets of rows [n, 2]; `invalid` is a share of beams.

        `first` [n] are ranks of these targets before: by how much NDCG@10 has changed has an interval of its own,
        for it is of the same users.
        """
        users, values = rows[:, 0], measured(["ndcg@10"], ranks)
        (interval,) = bootstrap_intervals(values, users).tolist()
        metrics = ranking_metrics(ranks) | {"ndcg@10_ci": interval, "users": len(np.unique(users))}
        if invalid is not None:
            metrics["invalid_beam_share"] = invalid
        if first is not None:
            change = values - measured(["ndcg@10"], first)
            (interval,) = bootstrap_intervals(change, users).tolist()
            metrics |= {"ndcg@10_change": float(change.mean()), "ndcg@10_change_ci": interval}
        self.store.emit(Event("eval", stage, step=step, split="valid", metrics=metrics))
        return metrics

    def rest(self) -> float:
        """Wait while the user has the run paused, and it is not to leave or to write a checkpoint; seconds of it."""
        began, began_at = self.clock(), time.time()
        while self.pausing.is_set() and not self.halting and not self.keeping.is_set():
            self.runtime.tend()
            time.sleep(REST_S)
        rested = self.clock() - began
        self.rested_s += rested
        if rested >= REST_S:
            self.timeline.rested(began_at)
        return rested

    @property
    def halting(self) -> bool:
        """Whether no work is to be begun, because the stage is to write a checkpoint and leave."""
        return self.stop.is_set() or self.regroup.is_set()

    def leave_if_stopped(self) -> None:
        """Raise Stopped between two checkpoints when the user has asked to: what was done since is done again."""
        if self.stop.is_set():
            raise Stopped("stopped as asked; it will go on from its last checkpoint")

    def check_halt(self, checkpoint: Callable[[], Checkpoint]) -> None:
        """Write a checkpoint when the user has asked for one, and raise Stopped, or Regroup, for that."""
        if self.halting or self.keeping.is_set():
            self.keeping.clear()
            self.store.save_checkpoint(checkpoint())
            self.leave_if_halting("a checkpoint is written")

    def leave_if_halting(self, kept: str) -> None:
        """Raise Stopped, or Regroup, when the user has asked for it; `kept` says what there is to go on from."""
        if self.stop.is_set():
            raise Stopped(f"stopped as asked; {kept}")
        if self.regroup.is_set():
            raise Regroup("the learners start again, as many as asked for")
