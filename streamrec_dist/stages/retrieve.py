"""The stage before pretraining: a retriever over item ids, texts and counts, and the evidence it has for every row.

    training rows --> learners (DDP): softmax over the catalogue --> best epoch by validation NDCG@10
                                            |                               |
                                            |                               '--> evidence of held-out rows
                                            '-- again without each fold of users --> evidence of that fold's rows

A model is surer of rows that it has learnt than of others. Training rows therefore get their evidence from a
retriever that has not seen their users: what the recommender learns to make of evidence then holds for held-out rows.
"""

from __future__ import annotations

import time

import numpy as np

from streamrec_dist.data.split import SPLITS, split_rows
from streamrec_dist.rl.ports import Published, Task
from streamrec_dist.rundir import Checkpoint, StageResult
from streamrec_dist.stages.context import DEADLINE_S, Context
from streamrec_dist.stages.patience import Best
from streamrec_dist.stages.pretrain import train_epoch
from streamrec_dist.training.learner import steps_per_epoch

STAGE = "retrieve"
HELD_OUT = "held-out"
#: Rows of one call for evidence.
CHUNK = 4096


def retrieve(context: Context) -> StageResult:
    """Train the retriever on all users, then once without each fold, and keep what each finds for the others."""
    config = context.config.stages.retrieve
    started = time.monotonic()
    per_epoch = steps_per_epoch(len(context.materials.rows), config.batch)
    total = per_epoch * config.epochs
    best = Best(config.patience)

    saved = context.store.newest_checkpoint(STAGE)
    epoch = saved.state["epoch"] if saved else 0
    seconds_before = saved.state["seconds"] if saved else 0.0
    if saved:
        best.restore(saved.arrays, saved.state["best"])
    checkpoint = saved.arrays if saved else None
    context.learners.begin(STAGE, total, checkpoint=checkpoint, step=epoch * per_epoch)
    best_vector = None
    while epoch < config.epochs and not best.exhausted:
        train_epoch(context, STAGE, epoch, per_epoch, total, {"epoch": epoch + 1})
        epoch += 1
        weights = context.publisher.publish(context.learners.vector(policy_only=False))
        metrics = context.evaluate(STAGE, STAGE, epoch * per_epoch, config.eval_users, weights)
        if best.offer(epoch * per_epoch, metrics, context.learners.weights()):
            best_vector = weights
        seconds = seconds_before + time.monotonic() - started
        state = {"epoch": epoch, "best": best.state(), "seconds": seconds}
        arrays = {**context.learners.checkpoint(), **best.arrays()}
        context.store.save_checkpoint(Checkpoint(STAGE, epoch * per_epoch, arrays, state))
        context.leave_if_stopped()

    assert best.weights is not None
    context.store.save_weights(STAGE, best.weights)
    epochs, done = best.step // per_epoch, set(context.store.evidence_parts())
    if HELD_OUT not in done:
        if best_vector is None:
            context.learners.begin(STAGE, total, weights=best.weights)
            best_vector = context.publisher.publish(context.learners.vector(policy_only=False))
        held_out = np.concatenate([split_rows(context.materials.corpus, split) for split in SPLITS])
        find_evidence(context, HELD_OUT, held_out, best_vector)
    for fold in range(config.folds):
        if f"fold-{fold}" not in done:
            without_fold(context, fold, epochs)
    metrics = {**best.metrics, "best_step": best.step, "epochs": epoch}
    return StageResult(STAGE, seconds_before + time.monotonic() - started, epoch * per_epoch, metrics)


def without_fold(context: Context, fold: int, epochs: int) -> None:
    """Train on the other folds, for as many epochs as were best for all, and find the evidence of this one's rows."""
    config, materials = context.config.stages.retrieve, context.materials
    inside = materials.folds == fold
    if not inside.any():
        return
    per_epoch = steps_per_epoch(int((~inside).sum()), config.batch)
    # The rate falls as it fell for all users, who were stopped at their best epoch.
    total = per_epoch * config.epochs
    context.learners.begin(STAGE, total, fold=fold)
    for epoch in range(epochs):
        train_epoch(context, STAGE, epoch, per_epoch, total, {"epoch": epoch + 1, "fold": fold + 1})
    weights = context.publisher.publish(context.learners.vector(policy_only=False))
    find_evidence(context, f"fold-{fold}", materials.rows[inside], weights)


def find_evidence(context: Context, name: str, rows: np.ndarray, weights: Published) -> None:
    """Keep the likeliest items of rows int64 [n, 2], by a retriever with these weights, as a part of the evidence."""
    parts = np.array_split(rows, -(-len(rows) // CHUNK))
    tasks: list[Task] = [context.evaluators.likely_items(part, weights) for part in parts]
    found = [context.runtime.receipt(task, "evidence", DEADLINE_S) for task in tasks]
    joined = {key: np.concatenate([part[key] for part in found]) for key in found[0]}
    context.store.save_evidence(name, joined)
