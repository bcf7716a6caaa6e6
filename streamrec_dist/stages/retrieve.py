"""The stage before pretraining: a retriever over item ids, texts and counts, and the evidence it has for every row.

    training rows --> learners (DDP): softmax over the catalogue --> best epoch by validation NDCG@10
                                            |                               |
                                            |                               '--> evidence of held-out rows
                                            '-- again without each fold of users --> evidence of that fold's rows

A model is surer of rows that it has learnt than of others. Training rows therefore get their evidence from a
retriever that has not seen their users: what the recommender learns to make of evidence then holds for held-out rows.
"""

from __future__ import annotations

import numpy as np

from streamrec_dist.data.split import SPLITS, split_rows
from streamrec_dist.rl.ports import Published, Task
from streamrec_dist.rundir import StageResult
from streamrec_dist.stages.context import DEADLINE_S, Context
from streamrec_dist.stages.epochs import TrainingByEpochs, train_epoch
from streamrec_dist.training.learner import steps_per_epoch

STAGE = "retrieve"
HELD_OUT = "held-out"
#: Rows of one call for evidence.
CHUNK = 4096


def retrieve(context: Context) -> StageResult:
    """Train the retriever on all users, then once without each fold, and keep what each finds for the others."""
    training = TrainingByEpochs(context, STAGE, len(context.materials.rows))
    training.run(STAGE)
    best, published = training.best, training.published
    done = set(context.store.evidence_parts())
    if HELD_OUT not in done:
        if published is None:
            context.learners.begin(STAGE, training.total, weights=best.weights)
            published = context.publisher.publish(context.learners.vector(policy_only=False))
        held_out = np.concatenate([split_rows(context.materials.corpus, split) for split in SPLITS])
        find_evidence(context, HELD_OUT, held_out, published)
    for fold in range(context.config.stages.retrieve.folds):
        if f"fold-{fold}" not in done:
            without_fold(context, fold, best.step // training.per_epoch)
    return training.result()


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
