"""The store actor: the one process that touches runs/, on the head node."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from streamrec_dist.config import Config
from streamrec_dist.data.dataset import Dataset
from streamrec_dist.errors import RunError, StreamRecError, summary
from streamrec_dist.events import Event
from streamrec_dist.materials import Materials
from streamrec_dist.rl.ports import Weights
from streamrec_dist.rundir import Checkpoint, StageResult
from streamrec_dist.stages.run_store import RunStore

STORE_DEADLINE_S = 600.0
#: Every call leaves the same behind however often it is made, but for events, which may then stand there twice, or
#: out of order.
RETRIES = 3


class StoreActor(RunStore):
    """RunStore, as an actor."""

    def texts(self) -> list[str]:
        return list(self.dataset().texts)

    def check_given_ids(self) -> None:
        self.given_ids()


class RemoteStore:
    """Implements the Store port by calls to a StoreActor. Events and checkpoints do not make the caller wait."""

    def __init__(self, path: Path, head_node: Any):
        self.actor: Any = (
            ray.remote(StoreActor)
            .options(num_cpus=0, scheduling_strategy=head_node, max_restarts=-1, max_task_retries=RETRIES)
            .remote(path)
        )
        self._saving: Any = None
        self._emitting: list[Any] = []
        self._lock = threading.Lock()  # more than one thread of the controller has events

    def emit(self, *events: Event) -> None:
        # Held until they are done: Ray repeats no call that nobody holds.
        with self._lock:
            if self._emitting:
                _, self._emitting = ray.wait(self._emitting, num_returns=len(self._emitting), timeout=0)
            self._emitting.append(self.actor.emit.remote(*events))

    def trace(self, events: list[dict[str, Any]]) -> None:
        """Does not wait, and does not try twice: a trace is worth no more."""
        self.actor.trace.options(max_task_retries=0).remote(events)

    def paused(self) -> bool:
        return self._call(self.actor.paused.remote())

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Starts writing; an error of the checkpoint before is raised here."""
        self.flush()
        self._saving = self.actor.save_checkpoint.remote(checkpoint)

    def flush(self) -> None:
        """Wait until all events so far and the last checkpoint are on disk.

        So a checkpoint is on disk after the events before it: who goes on from it has them.
        """
        with self._lock:
            emitting, self._emitting = self._emitting, []
        if emitting:
            self._call(emitting)
        if self._saving is not None:
            saving, self._saving = self._saving, None
            self._call(saving)

    def newest_checkpoint(self, stage: str) -> Checkpoint | None:
        self.flush()
        return self._call(self.actor.newest_checkpoint.remote(stage))

    def checkpoint_step(self, stage: str) -> int:
        self.flush()
        return self._call(self.actor.checkpoint_step.remote(stage))

    def set_scaled(self, scaled: Mapping[str, int]) -> None:
        self._call(self.actor.set_scaled.remote(dict(scaled)))

    def scaled(self) -> dict[str, int]:
        return self._call(self.actor.scaled.remote())

    def save_evidence(self, name: str, part: Weights) -> None:
        self._call(self.actor.save_evidence.remote(name, part))

    def evidence_parts(self) -> list[str]:
        return self._call(self.actor.evidence_parts.remote())

    def save_weights(self, stage: str, weights: Weights) -> None:
        self._call(self.actor.save_weights.remote(stage, weights))

    def load_weights(self, stage: str) -> Weights:
        return self._call(self.actor.load_weights.remote(stage))

    def finish_stage(self, result: StageResult) -> None:
        self.flush()
        self._call(self.actor.finish_stage.remote(result))

    def stage_result(self, stage: str) -> StageResult | None:
        return self._call(self.actor.stage_result.remote(stage))

    def write_log(self, name: str, text: str) -> Path:
        return self._call(self.actor.write_log.remote(name, text))

    def dataset(self) -> Dataset:
        return self._call(self.actor.dataset.remote())

    def texts(self) -> list[str]:
        return self._call(self.actor.texts.remote())

    def missing_embeddings(self, encoder: str) -> list[tuple[int, int]]:
        return self._call(self.actor.missing_embeddings.remote(encoder))

    def check_given_ids(self) -> None:
        """Raises DataError when the run is given ids that it cannot use."""
        self._call(self.actor.check_given_ids.remote())

    def item_inputs(self) -> tuple[Any, Any, Any, Any]:
        """References to the embeddings, the training part (items, offsets) and the given ids."""
        items, offsets = self.actor.training_part.options(num_returns=2).remote()
        return self.actor.embeddings.remote(), items, offsets, self.actor.given_ids.remote()

    def save_items(self, tokenized: Any) -> None:
        """`tokenized` may be a reference to a Tokenized."""
        self._call(self.actor.save_items.remote(tokenized))

    def materials(self, config: Config, stage: str) -> Materials:
        return self._call(self.actor.materials.remote(config, stage))

    def _call(self, ref: Any) -> Any:
        try:
            return ray.get(ref, timeout=STORE_DEADLINE_S)
        except ray.exceptions.GetTimeoutError:
            raise RunError(f"the run directory did not answer within {STORE_DEADLINE_S:.0f} s") from None
        except ray.exceptions.RayActorError as error:
            raise RunError(f"the process that writes the run directory died: {summary(error)}") from None
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, StreamRecError):
                raise error.cause from None
            raise RunError(f"the run directory cannot be used: {summary(error)}") from None
