"""What the loops of the stages need from the outside. Actors and learners implement these; tests do so in process.

Tensors stay with the workers: a Task has a small `receipt`, which a loop may look at, and a `payload`, which it
only passes on.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from streamrec_dist.events import Event
from streamrec_dist.rundir import Checkpoint, StageResult
from streamrec_dist.types import PolicyVersion

Payload = Any
Weights = Mapping[str, np.ndarray]


@dataclass(eq=False)
class Task:
    """Work under way. Behind a distributed runtime `receipt` is one reference a worker that takes part, and
    `merge` makes one receipt of theirs. Not finished at `limit` (of time.monotonic), its workers are lost."""

    receipt: Any
    payload: Payload = None
    merge: Callable[[list[Any]], Any] = operator.itemgetter(0)
    limit: float = math.inf


@dataclass(frozen=True)
class Published:
    """Weights that workers can adopt: a version and one flat vector, by reference."""

    version: PolicyVersion
    vector: Payload


class Runtime(Protocol):
    """Waits for tasks."""

    def tend(self) -> None:
        """Look after the workers where nothing is waited for."""
        ...

    def wait(self, tasks: Sequence[Task], what: str, timeout_s: float) -> Task:
        """The first task to finish. Raises RunError naming `what` when none does in time, or when it failed."""
        ...

    def receipt(self, task: Task, what: str, timeout_s: float) -> Any:
        """The receipt of one task, waited for. Raises WorkerLost when its workers died, InputLost when what they
        were to work on is gone."""
        ...

    def share(self, value: Any) -> Payload:
        """Something of the loop's own for workers, as what it passes on."""
        ...

    def value(self, payload: Payload) -> Any:
        """What a payload is, for what has to be kept. Raises InputLost when it is gone."""
        ...


class Learners(Protocol):
    """The DDP group; every call reaches all ranks."""

    @property
    def world_size(self) -> int: ...

    def begin(
        self,
        stage: str,
        total_steps: int,
        weights: Weights | None = None,
        checkpoint: Weights | None = None,
        step: int = 0,
        fold: int = -1,
    ) -> None: ...

    def annotate(self, parts: Sequence[Payload]) -> None: ...

    def train_rows(self, epoch: int, first: int, last: int) -> Task:
        """Receipt: the metrics of each step, in order; the last may have `spans`, what each rank told (spans.py)."""
        ...

    def train_groups(
        self,
        shards: Sequence[Sequence[tuple[Payload, Payload, np.ndarray]]],
        groups: int,
        version: PolicyVersion,
    ) -> Task:
        """`shards` by rank: (RolloutBatch, RewardBreakdown, its groups). Receipt: metrics of the step; payload: the
        policy's weights after it, as `vector` gives them."""
        ...

    def vector(self, policy_only: bool = True) -> Payload:
        """Rank 0's weights as one flat vector."""
        ...

    def weights(self) -> Weights: ...

    def checkpoint(self) -> Weights: ...


class Publisher(Protocol):
    """The only place where policy versions are minted."""

    def publish(self, vector: Payload) -> Published:
        """Give a flat vector the next version."""
        ...


class Annotators(Protocol):
    """Run iterative inference over ranges of training rows."""

    def submit(self, first: int, last: int, round_number: int, weights: Published) -> Task:
        """Receipt: number of rows; payload: Annotation."""
        ...


class Rollouts(Protocol):
    """Sample groups."""

    @property
    def replicas(self) -> int: ...

    def submit(self, cursor: int, count: int, weights: Published) -> Task:
        """Receipt: {"version", "tokens", "seconds"}; payload: RolloutBatch."""
        ...


class Rewards(Protocol):
    """Score groups."""

    def submit(self, rollouts: Payload) -> Task:
        """Receipt: {"signal": bool [P], "report": metrics}; payload: RewardBreakdown."""
        ...


class Evaluators(Protocol):
    """Decode for held-out rows."""

    @property
    def replicas(self) -> int: ...

    def ranks(self, model: str, rows: np.ndarray, mask_history: bool, weights: Published) -> Task:
        """Receipt: rank of each target, int64 [n]."""
        ...

    def invalid_share(self, model: str, rows: np.ndarray, weights: Published) -> Task:
        """Receipt: share of an unconstrained beam that names no item."""
        ...

    def likely_items(self, rows: np.ndarray, weights: Published) -> Task:
        """Receipt: a part of an EvidenceTable, of the retriever with these weights."""
        ...

    def thinking(self, rows: np.ndarray, weights: Published) -> Task:
        """Receipt: the columns of `ThinkingMeter.measure`."""
        ...


class Store(Protocol):
    """The run directory, wherever it is."""

    def emit(self, *events: Event) -> None: ...

    def save_checkpoint(self, checkpoint: Checkpoint) -> None: ...

    def newest_checkpoint(self, stage: str) -> Checkpoint | None: ...

    def save_evidence(self, name: str, part: Weights) -> None: ...

    def evidence_parts(self) -> list[str]: ...

    def save_weights(self, stage: str, weights: Weights) -> None: ...

    def load_weights(self, stage: str) -> Weights: ...

    def finish_stage(self, result: StageResult) -> None: ...
