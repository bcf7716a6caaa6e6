"""Stage 3: GRPO with rollout actors, reward workers and DDP learners, all running at once (section 2.4).

    cursor --unit--> rollouts --RolloutBatch ref--> rewards --RewardBreakdown ref--> buffer --groups--> learners
                        ^                                                                                  |
                        '----------------------- weights, version + 1 <--- publisher <---------------------'

The loop holds references and small numbers. It consumes finished tasks; it waits for the first of them; what
unblocks it is a rollout (send it to a reward worker), a score (put it into the buffer), a training step (publish,
so that the buffer admits more prompts) or an evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from streamrec_dist.rl.buffer import Buffer, ScoredUnit, Unit, deal
from streamrec_dist.rl.ports import Published, Task
from streamrec_dist.rundir import Checkpoint, StageResult
from streamrec_dist.stages.context import DEADLINE_S, Context
from streamrec_dist.stages.patience import Best
from streamrec_dist.types import PolicyVersion

STAGE = "rl"


def rl(context: Context) -> StageResult:
    """Train for `steps` batches from the best weights of stage 2; keep the best evaluation."""
    loop = RlLoop(context)
    loop.evaluate_missing()
    while loop.step < loop.config.steps or loop.evaluations:
        loop.start_rollouts()
        loop.start_training()
        if loop.running:
            loop.finish(context.runtime.wait(list(loop.running), loop.waiting_for(), DEADLINE_S))
        if loop.training is None and not loop.evaluations:
            context.check_stop(loop.checkpoint)
    return loop.result()


class RlLoop:
    """The state of the loop: what runs, what is buffered, and who was busy for how long."""

    def __init__(self, context: Context):
        self.context, self.config = context, context.config.stages.rl
        assert context.rollouts is not None and context.rewards is not None
        self.rollouts, self.rewards, self.learners = context.rollouts, context.rewards, context.learners
        self.started = self.stepped = context.clock()
        saved = context.store.newest_checkpoint(STAGE)
        self.step: int = saved.state["step"] if saved else 0
        self.seconds_before: float = saved.state["seconds"] if saved else 0.0
        self.best = Best(patience=self.config.steps)
        start = context.store.load_weights("sft")
        if saved:
            self.best.restore(saved.arrays, saved.state["best"])
        self.optimiser_steps: int = saved.state["optimiser_steps"] if saved else 0
        self.evaluated: list[int] = saved.state["evaluated"] if saved else []
        arrays = saved.arrays if saved else None
        self.learners.begin(STAGE, self.config.steps, start, arrays, step=self.optimiser_steps)
        self.published: Published = context.publisher.publish(self.learners.vector())
        # Versions count optimizer steps: batch k makes version k + 1.
        self.first_version = self.published.version - self.step
        self.buffer = Buffer(
            self.config.prompts, self.config.max_staleness, self.rollouts.replicas, first_batch=self.step
        )
        self.running: dict[Task, Callable[[Task], None]] = {}
        self.training: Task | None = None
        self.evaluations: list[Task] = []
        self.busy = {"learner": 0.0, "rollout": 0.0}
        self.sampled = {"rollouts": 0, "tokens": 0}

    @property
    def version(self) -> PolicyVersion:
        """The published version, counted in optimizer steps of this stage."""
        return PolicyVersion(self.published.version - self.first_version)

    def waiting_for(self) -> str:
        return f"rl step {self.step + 1}: a rollout, a score or a training step"

    # rollouts -> rewards -> buffer

    def start_rollouts(self) -> None:
        """Start all units that can still be consumed in time, and none that no step will use."""
        while self.buffer.cursor < self.config.steps * self.config.prompts and not self.context.stop.is_set():
            unit = self.buffer.start_unit(self.version)
            if unit is None:
                return
            task = self.rollouts.submit(unit.cursor, unit.count, self.published)
            self.running[task] = lambda done, unit=unit: self.rolled_out(done, unit)  # type: ignore[misc]

    def rolled_out(self, task: Task, unit: Unit) -> None:
        receipt = self.context.runtime.receipt(task, "a rollout", DEADLINE_S)
        self.busy["rollout"] += receipt["seconds"]
        self.sampled["rollouts"] += unit.count * self.config.group_size
        self.sampled["tokens"] += receipt["tokens"]
        version = PolicyVersion(receipt["version"] - self.first_version)
        scoring = self.rewards.submit(task.payload)
        self.running[scoring] = lambda done: self.scored(done, unit, version, task)

    def scored(self, task: Task, unit: Unit, version: PolicyVersion, rolled: Task) -> None:
        receipt = self.context.runtime.receipt(task, "a score", DEADLINE_S)
        self.buffer.add(
            ScoredUnit(unit, version, receipt["signal"], rolled.payload, task.payload, receipt["report"])
        )

    # buffer -> learners -> weights

    def start_training(self) -> None:
        """Give the learners the next batch when it is complete and they are free."""
        if self.training is not None or self.context.stop.is_set():
            return
        units = self.buffer.take_batch(self.version)
        if units is None:
            return
        groups = int(sum(unit.signal.sum() for unit in units))
        if groups == 0:
            self.trained(units, {}, 0.0)
            return
        shards = [
            [(unit.rollouts, unit.rewards, chosen) for unit, chosen in hand]
            for hand in deal(units, self.learners.world_size)
        ]
        before = self.context.clock()
        # The learners compare versions as the rollouts stamped them.
        self.training = self.learners.train_groups(shards, groups, self.published.version)
        self.running[self.training] = lambda task: self.trained(
            units,
            self.context.runtime.receipt(task, "a training step", DEADLINE_S),
            self.context.clock() - before,
        )

    def trained(self, units: list[ScoredUnit], metrics: dict[str, Any], seconds: float) -> None:
        """A batch is consumed: publish the new weights, report, and now and then evaluate."""
        self.training = None
        self.busy["learner"] += seconds
        staleness = [self.version - unit.version for unit in units]
        self.step += 1
        self.optimiser_steps += bool(metrics)
        # A batch without signal makes no optimizer step; its version is the same weights under a new number.
        vector = self.learners.vector() if metrics else self.published.vector
        self.published = self.context.publisher.publish(vector)
        self.report(units, metrics, staleness)
        if self.due(self.step):
            self.start_evaluation(self.step, self.published)
            self.context.store.save_checkpoint(self.checkpoint())

    def report(self, units: list[ScoredUnit], metrics: dict[str, Any], staleness: list[int]) -> None:
        now = self.context.clock()
        elapsed, self.stepped = max(now - self.stepped, 1e-9), now
        counts = np.array([unit.unit.count for unit in units])
        names = units[0].report
        rewards = {name: float(np.average([u.report[name] for u in units], weights=counts)) for name in names}
        silent = int(sum((~unit.signal).sum() for unit in units))
        metrics = (
            dict(metrics)
            | rewards
            | {
                "staleness": float(np.average(staleness, weights=counts)),
                "version": int(self.version),
                "buffered": self.buffer.buffered,
                "no_signal": silent,
                "no_step": int(silent == counts.sum()),
                "rollouts_per_s": self.sampled["rollouts"] / elapsed,
                "tokens_per_s": self.sampled["tokens"] / elapsed,
                "learner_idle": max(0.0, 1 - self.busy["learner"] / elapsed),
                "rollout_idle": max(0.0, 1 - self.busy["rollout"] / (elapsed * self.rollouts.replicas)),
                "seconds": elapsed,
            }
        )
        self.busy = dict.fromkeys(self.busy, 0.0)
        self.sampled = dict.fromkeys(self.sampled, 0)
        self.context.step(STAGE, self.step, self.config.steps, metrics)

    # evaluation, while everything else goes on

    def due(self, step: int) -> bool:
        """Steps to evaluate after; the start counts, for training may make a model worse."""
        return step % self.config.eval_every == 0 or step == self.config.steps

    def evaluate_missing(self) -> None:
        """Evaluate where the run stands, unless that was done before it was resumed."""
        if self.due(self.step) and self.step not in self.evaluated:
            self.start_evaluation(self.step, self.published)

    def start_evaluation(self, step: int, weights: Published) -> None:
        parts = self.context.evaluation_parts(self.config.eval_users)
        tasks = [self.context.evaluators.ranks(STAGE, part, False, weights) for part in parts]
        saved = self.learners.weights()
        self.evaluations += tasks
        left = list(tasks)

        def one_done(task: Task) -> None:
            self.evaluations.remove(task)
            left.remove(task)
            if not left:
                ranks = [self.context.runtime.receipt(t, "evaluation", DEADLINE_S) for t in tasks]
                metrics = self.context.report_ranks(STAGE, step, np.concatenate(parts), np.concatenate(ranks))
                self.best.offer(step, metrics, saved)
                self.evaluated.append(step)

        self.running |= dict.fromkeys(tasks, one_done)

    # bookkeeping

    def finish(self, task: Task) -> None:
        """Do what the finished task makes possible."""
        self.running.pop(task)(task)

    def checkpoint(self) -> Checkpoint:
        state = {
            "step": self.step,
            "optimiser_steps": self.optimiser_steps,
            "evaluated": self.evaluated,
            "seconds": self.seconds,
            "best": self.best.state(),
        }
        return Checkpoint(STAGE, self.step, {**self.learners.checkpoint(), **self.best.arrays()}, state)

    @property
    def seconds(self) -> float:
        return self.seconds_before + self.context.clock() - self.started

    def result(self) -> StageResult:
        assert self.best.weights is not None
        self.context.store.save_weights(STAGE, self.best.weights)
        metrics = {**self.best.metrics, "best_step": self.best.step}
        return StageResult(STAGE, self.seconds, self.step, metrics)
