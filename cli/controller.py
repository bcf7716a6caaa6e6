"""The controller: a detached actor on the head node that takes a run through its stages.

It hosts the loops of `streamrec_dist.stages`; it moves references and small numbers, and no tensors.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.annotate import AnnotatePool
from actors.embed import embed_texts, find_encoder
from actors.evaluate import EvaluatePool
from actors.placement import check_fits, cluster_gpus, stage_config
from actors.pool import RayRuntime, wait_started
from actors.reward import RewardPool
from actors.rollout import RolloutPool
from actors.store import STORE_DEADLINE_S, RemoteStore
from learners.group import LearnerGroup
from learners.publisher import WeightPublisher
from learners.tokenizer import TokenizerGroup
from streamrec_dist.baselines.config import TRAINED
from streamrec_dist.config import Config
from streamrec_dist.errors import StreamRecError, WorkerLost, summary
from streamrec_dist.events import Event
from streamrec_dist.rundir import StageResult
from streamrec_dist.stages.baseline import train_baseline
from streamrec_dist.stages.context import Context, Stopped
from streamrec_dist.stages.pretrain import pretrain
from streamrec_dist.stages.retrieve import retrieve
from streamrec_dist.stages.rl import rl
from streamrec_dist.stages.sft import sft

LOOPS: dict[str, Callable[[Context], StageResult]] = {
    "retrieve": retrieve,
    "pretrain": pretrain,
    "sft": sft,
    "rl": rl,
    **{name: partial(train_baseline, name=name) for name in TRAINED},
}
#: How often a stage is started again from its last checkpoint after one of its processes died.
STAGE_RESTARTS = 3
#: Millions of items take hours.
TOKENIZE_DEADLINE_S = 24 * 3600.0


class Controller:
    """Runs in a thread of its own, so that the actor answers while a stage trains."""

    def __init__(self, run: Path, config: Config, stages: Sequence[str], head_node: str):
        self.config, self.stages = config, stages
        strategy = NodeAffinitySchedulingStrategy(node_id=head_node, soft=False)
        self.store = RemoteStore(run, strategy)
        self.runtime = RayRuntime()
        self.stop = threading.Event()
        self.publisher = WeightPublisher()

    def start(self) -> None:
        """Begin the run and return."""
        itself = ray.get_runtime_context().current_actor
        self._thread = threading.Thread(target=self._run, args=(itself,), daemon=True)
        self._thread.start()

    def alive(self) -> bool:
        return self._thread.is_alive()

    def request_stop(self) -> None:
        """Ask the run to write a checkpoint and end."""
        self.stop.set()

    def _run(self, itself: Any) -> None:
        try:
            self._run_stages()
        finally:
            # Whatever happened, no actor of this run may outlive it.
            ray.kill(self.store.actor)
            ray.kill(itself)

    def _run_stages(self) -> None:
        self._emit(Event("run", state="started", metrics={"stages": list(self.stages)}))
        try:
            check_fits(self.config, self.stages)
            for stage in self.stages:
                self._run_stage(stage)
        except Stopped as stopped:
            self._emit(Event("run", state="stopped", message=str(stopped)))
        except StreamRecError as error:
            self._emit(Event("run", state="failed", message=str(error)))
        except Exception as error:
            # Whatever it is, the run's events must say how it ended.
            log = self.store.write_log("error.log", traceback.format_exc())
            message = f"{type(error).__name__}: {summary(error)}; the traceback is in {log}"
            self._emit(Event("run", state="failed", message=message))
        else:
            self._emit(Event("run", state="done"))

    def _run_stage(self, stage: str) -> None:
        if self.store.stage_result(stage):
            self._emit(Event("stage", stage, state="skipped"))
            return
        self._emit(Event("stage", stage, state="started"))
        result = self._with_restarts(stage)
        self.store.finish_stage(result)
        metrics = result.metrics | {"seconds": result.seconds}
        self._emit(Event("stage", stage, state="done", step=result.steps, metrics=metrics))
        if self.stop.is_set():
            raise Stopped(f"stopped as asked, after stage {stage}")

    def _with_restarts(self, stage: str) -> StageResult:
        for attempt in range(STAGE_RESTARTS + 1):
            try:
                return self._tokenize() if stage == "tokenize" else self._train(stage)
            except WorkerLost as lost:
                if attempt == STAGE_RESTARTS:
                    raise
                kept = "the texts embedded so far" if stage == "tokenize" else "its last checkpoint"
                warning = f"{lost}; stage {stage} starts again from {kept}"
                self._emit(Event("warning", stage, message=warning))
        raise AssertionError("unreachable")

    def _train(self, stage: str) -> StageResult:
        with self._roles(stage) as context:
            try:
                return LOOPS[stage](context)
            finally:
                # A checkpoint that could not be written must not be reported as written.
                self.store.flush()

    @contextmanager
    def _roles(self, stage: str):
        """Start the actors and learners of a stage, and end them with it."""
        materials = self.store.materials(self.config, stage)
        shared = ray.put(materials)
        settled = stage_config(self.config, stage, cluster_gpus())
        actors = settled.actors
        learners = LearnerGroup(settled.learners, shared)
        evaluators = EvaluatePool(actors.evaluate, shared)
        pools: dict[str, Any] = {"evaluate": evaluators.pool}
        context = Context(
            self.config, materials, self.runtime, learners, self.store, evaluators, self.publisher
        )
        context.stop = self.stop
        if stage in ("sft", "rl"):
            reference = ray.put(self.store.load_weights("pretrain"))
        if stage == "sft":
            context.annotators = AnnotatePool(actors.annotate, shared, reference)
            pools["annotate"] = context.annotators.pool
        if stage == "rl":
            context.rollouts = RolloutPool(actors.rollout, shared)
            context.rewards = RewardPool(actors.reward, shared, reference)
            pools |= {"rollout": context.rollouts.pool, "reward": context.rewards.pool}
        try:
            wait_started({role: pool.started() for role, pool in pools.items()})
            yield context
        finally:
            learners.close()
            for pool in pools.values():
                pool.close()

    def _tokenize(self) -> StageResult:
        """Stage 0: texts are embedded by all embed actors, then the learner ranks make the ids."""
        started = time.monotonic()
        settled = stage_config(self.config, "tokenize", cluster_gpus())
        self.store.check_given_ids()
        encoder = find_encoder(self.config.items.encoder)
        texts, missing = self.store.texts(), self.store.missing_embeddings(encoder)
        done = len(texts) - sum(last - first for first, last in missing)
        for count in embed_texts(settled, texts, missing, self.store.actor):
            done += count
            self._emit(Event("step", "tokenize", step=done, total=len(texts), metrics={"embedded": done}))
            if self.stop.is_set():
                raise Stopped("stopped as asked; the texts embedded so far are kept")
        embedded = time.monotonic()
        group = TokenizerGroup(settled.learners, self.config, self.store.actor)
        try:
            task = group.tokenize(*self.store.item_inputs())
            report = self.runtime.receipt(task, "semantic ids", TOKENIZE_DEADLINE_S)
            self.store.save_items(task.payload)
        finally:
            group.close()
        report["encoder"] = {"name": self.config.items.encoder, "sha256": encoder}
        report["seconds"] = {"embed": embedded - started, **report["seconds"]}
        return StageResult("tokenize", time.monotonic() - started, 0, report)

    def _emit(self, event: Event) -> None:
        # Waited for: the last event must be on disk before this process ends.
        ray.get(self.store.actor.emit.remote(event), timeout=STORE_DEADLINE_S)
