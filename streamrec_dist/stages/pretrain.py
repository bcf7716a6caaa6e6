"""Stage 1: pretraining on long targets, with the direct decoder beside it (section 2.2).

    training rows --> learners (DDP): [2 retrieved items, target] and [target]
                         | every epoch
                         v
    validation NDCG@10 of the direct decoder --> best weights, patience

What comes out is pi_ref: the direct decoder with its encoder, frozen from here on.
"""

from __future__ import annotations

import time

from streamrec_dist.rl.ports import Published
from streamrec_dist.rundir import Checkpoint, StageResult
from streamrec_dist.stages.context import DEADLINE_S, REPORT_S, Context
from streamrec_dist.stages.patience import Best
from streamrec_dist.training.learner import steps_per_epoch

STAGE = "pretrain"


def pretrain(context: Context) -> StageResult:
    """Train until the patience is spent or the epochs are, and keep the best weights."""
    config = context.config.stages.pretrain
    started = time.monotonic()
    per_epoch = steps_per_epoch(len(context.materials.supervised), config.batch)
    total = per_epoch * config.epochs
    best = Best(config.patience)

    saved = context.store.newest_checkpoint(STAGE)
    first_epoch = saved.state["epoch"] if saved else 0
    seconds_before = saved.state["seconds"] if saved else 0.0
    if saved:
        best.restore(saved.arrays, saved.state["best"])
    context.learners.begin(
        STAGE, total, checkpoint=saved.arrays if saved else None, step=first_epoch * per_epoch
    )

    def checkpoint(epoch: int) -> Checkpoint:
        seconds = seconds_before + time.monotonic() - started
        state = {"epoch": epoch, "best": best.state(), "seconds": seconds}
        return Checkpoint(STAGE, epoch * per_epoch, {**context.learners.checkpoint(), **best.arrays()}, state)

    epoch = first_epoch
    while epoch < config.epochs and not best.exhausted:
        train_epoch(context, STAGE, epoch, per_epoch, total, {"epoch": epoch + 1})
        epoch += 1
        if epoch % config.eval_every == 0 or epoch == config.epochs:
            weights: Published = context.publisher.publish(context.learners.vector(policy_only=False))
            metrics = context.evaluate(STAGE, "direct", epoch * per_epoch, config.eval_users, weights)
            best.offer(epoch * per_epoch, metrics, context.learners.weights())
            context.store.save_checkpoint(checkpoint(epoch))
        context.check_stop(lambda at=epoch: checkpoint(at))  # type: ignore[misc]

    assert best.weights is not None
    context.store.save_weights(STAGE, best.weights)
    metrics = {**best.metrics, "best_step": best.step, "epochs": epoch}
    return StageResult(STAGE, seconds_before + time.monotonic() - started, epoch * per_epoch, metrics)


def train_epoch(
    context: Context, stage: str, epoch: int, per_epoch: int, total: int, extra: dict[str, float]
) -> None:
    """One epoch on the learners, a few steps a call: long enough to keep them busy, short enough to watch."""
    done, chunk = 0, 1
    while done < per_epoch:
        last = min(done + chunk, per_epoch)
        before = time.monotonic()
        task = context.learners.train_rows(epoch, done, last)
        steps = context.runtime.receipt(task, f"{stage} step {epoch * per_epoch + last}", DEADLINE_S)
        step_seconds = (time.monotonic() - before) / (last - done)
        context.steps(stage, epoch * per_epoch + done + 1, total, [metrics | extra for metrics in steps])
        context.leave_if_stopped()
        done, chunk = last, max(1, round(REPORT_S / step_seconds))
