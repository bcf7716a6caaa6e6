"""Training by epochs, as stages and baselines share it: evaluation, checkpoint, patience, going on, stopping.

training rows --> learners (DDP), an epoch --> validation NDCG@10 --> best weights, patience --> checkpoint
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from streamrec_dist.errors import DataError
from streamrec_dist.rl.ports import Published
from streamrec_dist.rundir import Checkpoint, StageResult
from streamrec_dist.stages.context import DEADLINE_S, REPORT_S, Context
from streamrec_dist.stages.patience import Best
from streamrec_dist.training.learner import steps_per_epoch


class TrainingByEpochs:
    """That of a stage or baseline on so many training `rows`.

    `published` are the best weights, where they were found since the last start.
    """

    def __init__(self, context: Context, stage: str, rows: int):
        self.context, self.stage = context, stage
        self.config = context.config.trained(stage)
        self.started = time.monotonic()
        self.per_epoch = steps_per_epoch(rows, self.config.batch)
        self.total = self.per_epoch * self.config.epochs
        self.best = Best(self.config.patience)
        self.published: Published | None = None
        self.epoch, self.seconds_before = 0, 0.0

    def run(self, model: str) -> None:
        """Train until the patience is spent or the epochs are, judging the decoding `model` (`Evaluators.ranks`).

        Goes on from the newest checkpoint. The best weights are kept in the end.
        """
        context, config = self.context, self.config
        saved = context.store.newest_checkpoint(self.stage)
        if saved:
            self.epoch, self.seconds_before = saved.state["epoch"], saved.state["seconds"]
            if saved.step != self.epoch * self.per_epoch:
                raise DataError(
                    f"the checkpoint of stage {self.stage} at step {saved.step} is of epoch {self.epoch}, of "
                    f"{self.per_epoch} steps each; remove its folder to go on from the one before"
                )
            self.best.restore(saved.arrays, saved.state["best"])
        arrays = saved.arrays if saved else None
        context.learners.begin(self.stage, self.total, checkpoint=arrays, step=self.epoch * self.per_epoch)
        while self.epoch < config.epochs and not self.best.exhausted:
            extra = {"epoch": self.epoch + 1}
            train_epoch(context, self.stage, self.epoch, self.per_epoch, self.total, extra)
            self.epoch += 1
            if self.epoch % config.eval_every == 0 or self.epoch == config.epochs:
                self._evaluate(model)
            context.store.save_checkpoint(self._checkpoint())
            context.leave_if_halting("a checkpoint is written")
        if self.best.weights is None:
            raise DataError(f"the checkpoint of stage {self.stage} was never evaluated; remove its folder")
        context.store.save_weights(self.stage, self.best.weights)

    def _evaluate(self, model: str) -> None:
        step = self.epoch * self.per_epoch
        weights = self.context.publisher.publish(self.context.learners.vector(policy_only=False))
        metrics = self.context.evaluate(self.stage, model, step, self.config.eval_users, weights)
        if self.best.offer(step, metrics, self.context.learners.weights()):
            self.published = weights

    def _checkpoint(self) -> Checkpoint:
        state = {"epoch": self.epoch, "best": self.best.state(), "seconds": self._seconds()}
        arrays = {**self.context.learners.checkpoint(), **self.best.arrays()}
        return Checkpoint(self.stage, self.epoch * self.per_epoch, arrays, state)

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started - self.context.rested_s

    def result(self) -> StageResult:
        """What is left behind, with the time until now."""
        metrics: dict[str, Any] = {**self.best.metrics, "best_step": self.best.step, "epochs": self.epoch}
        return StageResult(self.stage, self._seconds(), self.epoch * self.per_epoch, metrics)


def train_epoch(
    context: Context, stage: str, epoch: int, per_epoch: int, total: int, extra: Mapping[str, float]
) -> None:
    """One epoch on the learners, a few steps a call: long enough to keep them busy, short enough to watch."""
    done, chunk = 0, 1
    while done < per_epoch:
        last = min(done + chunk, per_epoch)
        context.rest()
        before, began = time.monotonic(), time.time()
        task = context.learners.train_rows(epoch, done, last)
        steps = context.runtime.receipt(task, f"{stage} step {epoch * per_epoch + last}", DEADLINE_S)
        context.timeline.did("train", began)
        for told in steps[-1].pop("spans", ()):
            context.timeline.took("learner", told, began, time.time())
        step_seconds = (time.monotonic() - before) / (last - done)
        context.steps(stage, epoch * per_epoch + done + 1, total, [{**metrics, **extra} for metrics in steps])
        context.leave_if_stopped()
        done, chunk = last, max(1, round(REPORT_S / step_seconds))
