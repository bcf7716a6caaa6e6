"""Stage 2: rounds of annotating thoughts and learning them (section 2.3).

    weights --> annotate actors: iterative inference over the supervised rows --> Annotations, by reference
       ^                                                                              |
       '---- learners (DDP): SFT + DPO + quantisation + state losses, some epochs <---'

Supervised rows are those that stage 3 does not keep for its prompts. A round ends with the leak (how much annotated
thoughts know of the target that sampled ones do not) and validation NDCG@10; rounds go on until that stops improving.
Last, the best decoder is calibrated on the rows that are kept.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from streamrec_dist.errors import RunError
from streamrec_dist.events import Event
from streamrec_dist.rl.ports import Payload, Published, Task
from streamrec_dist.rundir import Checkpoint, StageResult
from streamrec_dist.stages.context import DEADLINE_S, REPORT_S, Context
from streamrec_dist.stages.epochs import train_epoch
from streamrec_dist.stages.patience import Best
from streamrec_dist.training.learner import steps_per_epoch

STAGE = "sft"
CALIBRATE = "calibrate"


def sft(context: Context) -> StageResult:
    """Annotate and train in turns, from the best weights of stage 1; keep the best round."""
    config = context.config.stages.sft
    started = time.monotonic()
    per_epoch = steps_per_epoch(len(context.materials.supervised), config.batch)
    total = per_epoch * config.epochs * config.rounds
    best = Best(config.patience)

    saved = context.store.newest_checkpoint(STAGE)
    first_round = saved.state["round"] if saved else 0
    seconds_before = saved.state["seconds"] if saved else 0.0
    first_nll = saved.state["sampled_nll_first"] if saved else None
    last_nll = saved.state["sampled_nll_last"] if saved else None
    if saved:
        best.restore(saved.arrays, saved.state["best"])
    context.learners.begin(
        STAGE,
        total,
        weights=context.store.load_weights("pretrain"),
        checkpoint=saved.arrays if saved else None,
        step=first_round * config.epochs * per_epoch,
    )

    def seconds() -> float:
        return seconds_before + time.monotonic() - started - context.rested_s

    def checkpoint(round_number: int) -> Checkpoint:
        state = {
            "round": round_number,
            "best": best.state(),
            "sampled_nll_first": first_nll,
            "sampled_nll_last": last_nll,
            "seconds": seconds(),
        }
        step = round_number * config.epochs * per_epoch
        return Checkpoint(STAGE, step, {**context.learners.checkpoint(), **best.arrays()}, state)

    round_number = first_round
    while round_number < config.rounds and not best.exhausted:
        weights = context.publisher.publish(context.learners.vector())
        if first_nll is None:
            first_nll = last_nll = report_thinking(context, 0, weights, {})["sampled_nll"]
        learnt = range(len(context.materials.supervised))
        parts, rate = annotate_rows(context, round_number, weights, learnt)
        context.learners.annotate(parts)
        for epoch in range(round_number * config.epochs, (round_number + 1) * config.epochs):
            train_epoch(context, STAGE, epoch, per_epoch, total, {"round": round_number + 1})
        round_number += 1
        step = round_number * config.epochs * per_epoch
        weights = context.publisher.publish(context.learners.vector())
        thinking = report_thinking(context, round_number, weights, {"rows_per_s": rate})
        last_nll = thinking["sampled_nll"]
        metrics = context.evaluate(STAGE, STAGE, step, config.eval_users, weights)
        best.offer(step, metrics | thinking, context.learners.weights())
        context.store.save_checkpoint(checkpoint(round_number))
        context.check_halt(lambda at=round_number: checkpoint(at))  # type: ignore[misc]

    assert best.weights is not None
    if config.calibration and context.config.model.evidence:
        calibrate(context, round_number, total + 1, best)
    context.store.save_weights(STAGE, best.weights)
    metrics = {
        **best.metrics,
        "best_step": best.step,
        "rounds": round_number,
        "sampled_nll_first": first_nll,
        "sampled_nll_last": last_nll,
    }
    return StageResult(STAGE, seconds(), best.step, metrics)


def calibrate(context: Context, round_number: int, step: int, best: Best) -> None:
    """Learn from the prompts of stage 3 how far the best decoder is trusted beside evidence.

    What `best` then says of calibrated weights is their validation NDCG@10; their thoughts are not measured. With
    fewer prompts than a batch all of them make one; with fewer than learner ranks the decoder stays as it is. Either
    emits a warning.
    """
    config, materials = context.config.stages.sft, context.materials
    if materials.kept < config.batch:
        _warn_of_few(context)
    # Rows that stages 1 and 2 have learnt would say nothing of how far the decoder is to be trusted.
    if materials.kept < context.learners.world_size:
        return
    per_epoch = steps_per_epoch(materials.kept, config.batch)
    epochs = math.ceil(config.calibration / per_epoch)
    context.learners.begin(CALIBRATE, per_epoch * epochs, weights=best.weights)
    weights = context.publisher.publish(context.learners.vector())
    kept = range(materials.first_prompt, len(materials.rows))
    parts, _ = annotate_rows(context, round_number, weights, kept)
    context.learners.annotate(parts)
    for epoch in range(epochs):
        context.runtime.receipt(context.learners.train_rows(epoch, 0, per_epoch), "calibration", DEADLINE_S)
        context.leave_if_stopped()
    weights = context.publisher.publish(context.learners.vector())
    metrics = context.evaluate(STAGE, STAGE, step, config.eval_users, weights)
    best.offer(step, metrics, context.learners.weights())


def _warn_of_few(context: Context) -> None:
    """Say that stage 3 keeps fewer prompts than calibration asks for, and what becomes of it."""
    config, kept = context.config.stages, context.materials.kept
    few = f"stages.rl.rows: {config.rl.rows} keeps {kept} rows to calibrate on (stages.sft.calibration)"
    ranks = context.learners.world_size
    message = (
        f"{few}, fewer than the {ranks} learner ranks; the decoder is not weighed against evidence"
        if kept < ranks
        else f"{few}, fewer than stages.sft.batch: {config.sft.batch}; all of them make one batch"
    )
    context.store.emit(Event("warning", STAGE, message=message))


def annotate_rows(
    context: Context, round_number: int, weights: Published, rows: range
) -> tuple[list[Payload], float]:
    """Annotate training rows by number; returns the annotations by reference and rows a second."""
    assert context.annotators is not None
    batch = context.config.stages.sft.annotate_batch
    before = time.monotonic()
    running: dict[Task, None] = {
        context.annotators.submit(first, min(first + batch, rows.stop), round_number, weights): None
        for first in rows[::batch]
    }
    payloads, done, told = [], 0, 0.0
    while running:
        if (now := time.monotonic()) >= told + REPORT_S:
            told, event = now, Event("annotate", STAGE, step=done, total=len(rows))
            event.metrics["round"] = round_number + 1
            if done:
                event.metrics["rows_per_s"] = done / (now - before)
            context.store.emit(event)
        task = context.runtime.wait(list(running), "annotation", DEADLINE_S)
        del running[task]
        context.leave_if_stopped()
        payloads.append(task.payload)
        done += context.runtime.receipt(task, "annotation", DEADLINE_S)
    if done != len(rows):
        raise RunError(f"{done} of {len(rows)} training rows were annotated")
    return payloads, done / (time.monotonic() - before)


def report_thinking(
    context: Context, round_number: int, weights: Published, extra: dict[str, Any]
) -> dict[str, Any]:
    """Measure how the model thinks on validation users, and emit it as the event of this round."""
    rows = context.evaluation_parts(context.config.stages.sft.eval_users)
    tasks = [context.evaluators.thinking(part, weights) for part in rows]
    parts = [context.runtime.receipt(task, "measuring thoughts", DEADLINE_S) for task in tasks]
    means = {name: np.concatenate([part[name] for part in parts]).mean(axis=0) for name in parts[0]}
    metrics = {
        "sampled_nll": float(means["sampled_nll"]),
        "gold_nll": float(means["gold_nll"]),
        "leak": float(means["sampled_nll"] - means["gold_nll"]),
        "distance": [float(value) for value in means["distance"]],
        "own_distance": [float(value) for value in means["own_distance"]],
        "distinct_thoughts": float(means["distinct"]),
        "target_share": float(means["target_share"]),
    }
    context.store.emit(Event("round", STAGE, step=round_number, metrics=metrics | extra))
    return metrics
