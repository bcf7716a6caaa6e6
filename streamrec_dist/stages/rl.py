"""Stage 3: GRPO with rollout actors, reward workers and DDP learners, all running at once (section 2.4).

    cursor --unit--> rollouts --RolloutBatch ref--> rewards --RewardBreakdown ref--> buffer --groups--> learners
                        ^                                                                                  |
                        '----------------------- weights, version + 1 <--- publisher <---------------------'

The loop holds references and small numbers. It consumes finished tasks; it waits for the first of them; what
unblocks it is a rollout (send it to a reward worker), a score (put it into the buffer), a training step (publish,
so that the buffer admits more prompts) or an evaluation.

What a checkpoint does not have is done again: prompts are a function of their number, so that after a resume every
prompt is in the weights once, whatever was under way. Under `deterministic` batch k is sampled by the weights of
version max(0, k - max_staleness) and by no others, which a checkpoint keeps: the same bits come out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from streamrec_dist.errors import InputLost
from streamrec_dist.model.weights import flatten, import_weights
from streamrec_dist.rl.buffer import Buffer, ScoredUnit, Unit, deal
from streamrec_dist.rl.ports import Published, Task, Weights
from streamrec_dist.rundir import Checkpoint, StageResult
from streamrec_dist.stages.context import DEADLINE_S, Context
from streamrec_dist.stages.patience import Best
from streamrec_dist.types import PolicyVersion

STAGE = "rl"


def rl(context: Context) -> StageResult:
    """Train for `steps` batches from the best weights of stage 2; keep the best evaluation."""
    loop = RlLoop(context)
    loop.evaluate_missing()
    while loop.step < loop.config.steps or loop.unjudged:
        if not context.pausing.is_set():
            loop.start_rollouts()
            loop.start_training()
        if loop.running:
            loop.finish(context.runtime.wait(list(loop.running), loop.waiting_for(), DEADLINE_S))
        else:
            # Nothing of a step's time is spent while everything rests.
            loop.stepped += context.rest()
        if loop.training is None:
            context.check_halt(loop.checkpoint)
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
        arrays = saved.arrays if saved else {}
        self.learners.begin(STAGE, self.config.steps, start, arrays or None, step=self.optimiser_steps)
        #: Ranks of the validation targets by the weights that the stage began with; None until they are known.
        self.first_ranks: np.ndarray | None = arrays.get("first_ranks")
        #: Weights that an evaluation is to judge or is judging, by step.
        self.unjudged: dict[int, Weights] = {
            step: _under(f"unjudged.{step}.", arrays)
            for step in (saved.state.get("unjudged", []) if saved else [])
        }
        again = {step: self._published(self._vector(self.unjudged[step])) for step in self.unjudged}
        #: The last versions, the oldest first; rollouts of a deterministic run want them in turn.
        kept = _under("published.", arrays)
        self.recent = [self._published(kept[name]) for name in sorted(kept)]
        self.published_at: dict[PolicyVersion, float] = {}
        self.adopted: list[float] = []  # seconds, since the last step
        self.publish(self.learners.vector())
        # Versions count optimizer steps: batch k makes version k + 1.
        self.first_version = self.published.version - self.step
        self.buffer = Buffer(self.config.prompts, self.config.max_staleness, first_batch=self.step)
        self.running: dict[Task, Callable[[Task], None]] = {}
        self.training: Task | None = None
        self.held: list[Unit] = []
        self.prompt_s = math.inf  # as it was for the last unit
        for step, weights in again.items():
            self.start_evaluation(step, weights, self.unjudged[step])
        self.busy = {"learner": 0.0, "rollout": 0.0}
        self.sampled = {"rollouts": 0, "tokens": 0}

    @property
    def published(self) -> Published:
        """The newest weights."""
        return self.recent[-1]

    def _took(self, role: str, receipt: Mapping[str, Any], asked: float) -> None:
        if "spans" in receipt:
            self.context.timeline.took(role, receipt["spans"], asked, time.time())

    def _adopted(self, receipt: Mapping[str, Any]) -> None:
        """Note how long after their publication weights were in an actor."""
        told = receipt.get("spans", {})
        ends = [ended for name, _, ended in told.get("parts", ()) if name == "adopt"]
        if ends and receipt["version"] in self.published_at:
            ended = self.context.timeline.here(told["machine"], ends[-1])
            self.adopted.append(max(0.0, ended - self.published_at[receipt["version"]]))

    def publish(self, vector: Any) -> None:
        self.recent.append(self.context.publisher.publish(vector))
        del self.recent[: -self.config.max_staleness - 1]
        self.published_at[self.published.version] = time.time()
        for version in [one for one in self.published_at if one < self.recent[0].version]:
            del self.published_at[version]

    def _published(self, vector: np.ndarray) -> Published:
        return self.context.publisher.publish(self.context.runtime.share(vector))

    def _vector(self, weights: Weights) -> np.ndarray:
        model = self.context.materials.new_model()
        import_weights(model, weights)
        return flatten(model, policy_only=True)

    @property
    def version(self) -> PolicyVersion:
        """The published version, counted in optimizer steps of this stage."""
        return PolicyVersion(self.published.version - self.first_version)

    def waiting_for(self) -> str:
        return f"rl step {self.step + 1}: a rollout, a score or a training step"

    # rollouts -> rewards -> buffer

    def start_rollouts(self) -> None:
        """Start all units that can still be consumed in time, and none that no step will use."""
        self.roll_out_held()
        if not self.context.config.deterministic:
            self.buffer.share_among(self.rollouts.replicas, self.prompt_s)
        while self.buffer.cursor < self.config.steps * self.config.prompts and not self.context.halting:
            unit = self.buffer.start_unit(self.version)
            if unit is None:
                return
            self.roll_out(unit)

    def roll_out(self, unit: Unit) -> None:
        asked = time.time()
        task = self.rollouts.submit(unit.cursor, unit.count, self._weights_for(unit))
        self.running[task] = lambda done: self.rolled_out(done, unit, asked)

    def _weights_for(self, unit: Unit) -> Published:
        if not self.context.config.deterministic:
            return self.published
        version = max(0, unit.cursor // self.config.prompts - self.config.max_staleness)
        return self.recent[version - self.version - 1]

    def rolled_out(self, task: Task, unit: Unit, asked: float) -> None:
        try:
            receipt = self.context.runtime.receipt(task, "a rollout", DEADLINE_S)
        except InputLost:
            self.hold(unit)
            return
        self._took("rollout", receipt, asked)
        self._adopted(receipt)
        self.busy["rollout"] += receipt["seconds"]
        self.prompt_s = receipt["seconds"] / unit.count
        self.sampled["rollouts"] += unit.count * self.config.group_size
        self.sampled["tokens"] += receipt["tokens"]
        version = PolicyVersion(receipt["version"] - self.first_version)
        asked = time.time()
        scoring = self.rewards.submit(task.payload)
        self.running[scoring] = lambda done: self.scored(done, unit, version, task, asked)

    def hold(self, unit: Unit) -> None:
        """Keep a unit whose weights are gone until the learners can give new copies.

        Raises InputLost where they cannot: a deterministic run wants weights that they do not have any more.
        """
        stale = self.training is not None or self._weights_for(unit) is not self.published
        if self.context.config.deterministic and stale:
            raise InputLost("the weights that a rollout needs are gone, and the learners have others by now")
        self.held.append(unit)

    def roll_out_held(self) -> None:
        if self.held and self.training is None:
            vector = self.learners.vector()
            # Learners that are gone too give none, and nobody else would notice now.
            self.context.runtime.value(vector)
            self.recent[-1] = Published(self.published.version, vector)
            held, self.held = self.held, []
            for unit in held:
                self.roll_out(unit)

    def scored(self, task: Task, unit: Unit, version: PolicyVersion, rolled: Task, asked: float) -> None:
        try:
            receipt = self.context.runtime.receipt(task, "a score", DEADLINE_S)
        except InputLost:
            # The node that sampled them is gone, and its rollouts with it.
            self.roll_out(unit)
        else:
            self._took("reward", receipt, asked)
            self.buffer.add(
                ScoredUnit(unit, version, receipt["signal"], rolled.payload, task.payload, receipt["report"])
            )

    # buffer -> learners -> weights

    def start_training(self) -> None:
        """Give the learners the next batch when it is complete and they are free."""
        if self.training is not None or self.context.halting:
            return
        units = self.buffer.take_batch(self.version)
        if units is None:
            return
        groups = int(sum(unit.signal.sum() for unit in units))
        if groups == 0:
            self.trained(units, {}, self.published.vector, 0.0)
            return
        shards = [
            [(unit.rollouts, unit.rewards, chosen) for unit, chosen in hand]
            for hand in deal(units, self.learners.world_size)
        ]
        before, asked = self.context.clock(), time.time()
        # The learners compare versions as the rollouts stamped them.
        self.training = self.learners.train_groups(shards, groups, self.published.version)

        def done(task: Task) -> None:
            metrics = self.context.runtime.receipt(task, "a training step", DEADLINE_S)
            for told in metrics.pop("spans", ()):
                self._took("learner", {"spans": told}, asked)
            self.trained(units, metrics, task.payload, self.context.clock() - before)

        self.running[self.training] = done

    def trained(self, units: list[ScoredUnit], metrics: dict[str, Any], vector: Any, seconds: float) -> None:
        """A batch is consumed: publish the weights `vector`, report, now and then evaluate and keep a checkpoint."""
        self.training = None
        self.busy["learner"] += seconds
        staleness = [self.version - unit.version for unit in units]
        self.step += 1
        self.optimiser_steps += bool(metrics)
        # A batch without signal makes no optimizer step; its version is the same weights under a new number.
        self.publish(vector)
        self.report(units, metrics, staleness)
        if self.due(self.step):
            self.start_evaluation(self.step, self.published, self.learners.weights())
        if self.due(self.step) or self.step % self.config.checkpoint_every == 0:
            self.context.store.save_checkpoint(self.checkpoint())

    def report(self, units: list[ScoredUnit], metrics: dict[str, Any], staleness: list[int]) -> None:
        now = self.context.clock()
        elapsed, self.stepped = max(now - self.stepped, 1e-9), now
        counts = np.array([unit.unit.count for unit in units])
        reports = np.array([list(unit.report.values()) for unit in units])
        means = np.average(reports, axis=0, weights=counts).tolist()
        rewards = dict(zip(units[0].report, means, strict=True))
        silent = int(sum((~unit.signal).sum() for unit in units))
        metrics = (
            dict(metrics)
            | rewards
            | {
                "staleness": float(np.average(staleness, weights=counts)),
                "staleness_counts": np.bincount(staleness, weights=counts).astype(int).tolist(),
                "groups_per_s": int(counts.sum() - silent) / elapsed,
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
            | {f"time/{name}": seconds for name, seconds in self.context.timeline.take_seconds().items()}
        )
        if self.adopted:
            metrics["adopted_s"] = float(np.mean(self.adopted))
            self.adopted = []
        self.busy = dict.fromkeys(self.busy, 0.0)
        self.sampled = dict.fromkeys(self.sampled, 0)
        queue = {"started": self.buffer.started, "scored": self.buffer.buffered}
        at = {"version": int(self.version), "first_version": int(self.first_version), "prompts": queue}
        self.context.step(STAGE, self.step, self.config.steps, metrics, **at)

    # evaluation, while everything else goes on

    def due(self, step: int) -> bool:
        """Steps to evaluate after; the start counts, for training may make a model worse."""
        return step % self.config.eval_every == 0 or step == self.config.steps

    def evaluate_missing(self) -> None:
        """Evaluate where the run stands, unless that was done before it was resumed."""
        if self.due(self.step) and self.step not in (*self.evaluated, *self.unjudged):
            self.start_evaluation(self.step, self.published, self.learners.weights())

    def start_evaluation(self, step: int, published: Published, weights: Weights) -> None:
        """Judge the `published` weights of a step, which are `weights` by name."""
        self.unjudged[step] = weights
        evaluation = self.context.start_evaluation(STAGE, self.config.eval_users, published)
        left = evaluation.tasks

        def one_done(task: Task) -> None:
            left.remove(task)
            if not left:
                metrics, ranks = self.context.finish_evaluation(STAGE, step, evaluation, self.first_ranks)
                if step == 0:
                    self.first_ranks = ranks
                self.best.offer(step, metrics, self.unjudged.pop(step))
                self.evaluated.append(step)

        self.running |= dict.fromkeys(evaluation.tasks, one_done)

    # bookkeeping

    def finish(self, task: Task) -> None:
        """Do what the finished task makes possible."""
        self.running.pop(task)(task)

    def checkpoint(self) -> Checkpoint:
        state = {
            "step": self.step,
            "optimiser_steps": self.optimiser_steps,
            "evaluated": self.evaluated,
            "unjudged": list(self.unjudged),
            "seconds": self.seconds,
            "best": self.best.state(),
        }
        arrays = {**self.learners.checkpoint(), **self.best.arrays()}
        if self.first_ranks is not None:
            arrays["first_ranks"] = self.first_ranks
        for step, weights in self.unjudged.items():
            arrays |= {f"unjudged.{step}.{name}": array for name, array in weights.items()}
        if self.context.config.deterministic:
            older = [self.context.runtime.value(published.vector) for published in self.recent[:-1]]
            arrays |= {f"published.{place:04d}": vector for place, vector in enumerate(older)}
        return Checkpoint(STAGE, self.step, arrays, state)

    @property
    def seconds(self) -> float:
        return self.seconds_before + self.context.clock() - self.started - self.context.rested_s

    def result(self) -> StageResult:
        assert self.best.weights is not None
        self.context.store.save_weights(STAGE, self.best.weights)
        metrics = {**self.best.metrics, "best_step": self.best.step}
        return StageResult(STAGE, self.seconds, self.step, metrics)


def _under(prefix: str, arrays: Weights) -> dict[str, np.ndarray]:
    """The arrays whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
