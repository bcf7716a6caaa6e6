"""The conductor takes a run through its stages, in a detached actor on the head node (controller.py).

It hosts the loops of `streamrec_dist.stages`; it moves references and small numbers, and weights only where they are
kept: for a checkpoint, or as the best so far. When it dies Ray starts it again, and the stage goes on from its last
checkpoint; the actors that it had die with it.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.annotate import AnnotatePool
from actors.calls import RayRuntime
from actors.embed import embed_texts, find_encoder
from actors.evaluate import EvaluatePool
from actors.placement import (
    ROLES,
    check_fits,
    cluster_gpus,
    living_nodes,
    role_resources,
    stage_config,
)
from actors.pool import wait_started
from actors.reward import RewardPool
from actors.rollout import RolloutPool
from actors.store import STORE_DEADLINE_S, RemoteStore
from cli.environment import environment
from cli.telling import Telling
from learners.broadcaster import BroadcastPublisher
from learners.group import LearnerGroup
from learners.publisher import WeightPublisher
from learners.tokenizer import TokenizerGroup
from streamrec_dist.baselines.config import TRAINED
from streamrec_dist.config import LEARNERS, Config
from streamrec_dist.errors import StreamRecError, UsageError, WorkerLost, summary
from streamrec_dist.events import Event
from streamrec_dist.rl.ports import Publisher
from streamrec_dist.rundir import StageResult
from streamrec_dist.spans import Timeline
from streamrec_dist.stages.baseline import train_baseline
from streamrec_dist.stages.context import Context, Regroup, Stopped
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
#: How often learners, and with them a stage, start again from the same checkpoint after a process died.
STAGE_RESTARTS = 3
#: Millions of items take hours.
TOKENIZE_DEADLINE_S = 24 * 3600.0


class Conductor:
    """Runs in a thread of its own, so that the actor answers while a stage trains."""

    def __init__(
        self, run: Path, config: Config, stages: Sequence[str], head_node: str, traced: bool = False
    ):
        self.config, self.stages, self.traced = config, stages, traced
        strategy = NodeAffinitySchedulingStrategy(node_id=head_node, soft=False)
        self.store = RemoteStore(run, strategy)
        self.runtime = RayRuntime()
        self.stop, self.regroup, self.pausing, self.keeping = (threading.Event() for _ in range(4))
        self.publisher = self.new_publisher()
        self.stage = ""
        self.context: Context | None = None
        self.learners: LearnerGroup | None = None
        self.tokenizers: TokenizerGroup | None = None
        self._thread: threading.Thread | None = None
        #: Replicas, and learner ranks, that were asked for since the run began, instead of those of its file.
        self.scaled: dict[str, int] = {}
        if ray.get_runtime_context().was_current_actor_reconstructed:
            self.scaled = self.store.scaled()
            if self.store.paused():
                self.pausing.set()
            self._emit(Event("warning", message="the controller died and was started again"))
            self._begin()

    def new_publisher(self) -> Publisher:
        if self.config.learners.transport == "collective":
            return BroadcastPublisher(
                lambda message: self.store.emit(Event("warning", self.stage, message=message))
            )
        return WeightPublisher()

    def start(self) -> None:
        """Begin the run and return."""
        self.store.set_scaled({})
        self._begin()

    def _begin(self) -> None:
        itself = ray.get_runtime_context().current_actor
        self._thread = threading.Thread(target=self._run, args=(itself,), daemon=True)
        self._thread.start()

    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def request_stop(self) -> None:
        """Ask the run to write a checkpoint and end."""
        self.stop.set()

    def pause(self, wanted: bool) -> None:
        """Begin no work until it is wanted again. Raises UsageError where that is so already, or cannot be."""
        if wanted == self.pausing.is_set():
            raise UsageError(f"the run {'is paused' if wanted else 'goes on'} already")
        if wanted and self.stage not in LOOPS:
            raise UsageError("no stage trains at the moment, and only those that do can rest")
        (self.pausing.set if wanted else self.pausing.clear)()
        self._emit(Event("run", self.stage, state="paused" if wanted else "resumed"))

    def keep(self) -> str:
        """Have a checkpoint written; what is to be said of it. Raises UsageError where there can be none."""
        if self.stage == "rl":
            self.keeping.set()
            return "a checkpoint is written after the step at work"
        if self.stage in LOOPS:
            raise UsageError(
                f"stage {self.stage} writes a checkpoint after every epoch, and none between two of them"
            )
        raise UsageError("no stage trains at the moment: there is nothing to keep")

    def scale(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """Have other numbers of replicas, and of learner ranks, from now on; returns all that differ from the file.

        Learners start again from a checkpoint that is written first. Raises UsageError for a number that cannot be.
        """
        for role, count in wanted.items():
            self.config.check_scale(role, count)
        self.scaled |= wanted
        self.store.set_scaled(self.scaled)
        self._take_scaled()
        learners = self.learners
        # Ranks that lost one of theirs for want of room are fewer than asked for: they try again.
        if learners and LEARNERS in wanted and learners.world_size not in (0, wanted[LEARNERS]):
            self.regroup.set()
        return dict(self.scaled)

    def _take_scaled(self) -> None:
        for pool in self.runtime.pools:
            pool.target = self.scaled.get(pool.role, pool.target)
        if learners := self.learners:
            learners.target = self.scaled.get(LEARNERS, learners.target)

    def status(self) -> dict[str, Any]:
        """What the run does just now, for people and scripts."""
        body: dict[str, Any] = {"stage": self.stage, "stopping": self.stop.is_set(), "scaled": self.scaled}
        body["paused"] = self.pausing.is_set()
        body["roles"] = {pool.role: pool.state() for pool in list(self.runtime.pools)}
        # The stage may end while this is being answered.
        learners, context = self.learners or self.tokenizers, self.context
        if learners:
            told: list[dict[str, Any]] = learners.told or [{}] * len(learners.places)
            ranks = [
                {
                    "state": "ready",
                    "number": number,
                    "calls": 0,
                    "finished": learners.finished,
                    "restarts": learners.lost,
                    **({"memory_mib": said["memory_mib"]} if said else {}),
                    **place,
                }
                for number, (place, said) in enumerate(zip(learners.places, told, strict=False))
            ]
            body["roles"][LEARNERS] = {
                "target": learners.target,
                "ready": len(ranks),
                "waiting": 0,
                "lost": learners.lost,
                "replicas": ranks,
            }
        body |= self._broadcasts()
        if context:
            body |= context.progress
        # Versions are counted over stages; of this one, as steps are, once the first is known.
        first = body.pop("first_version", None)
        for role in body["roles"].values():
            for replica in role["replicas"]:
                if "version" in replica:
                    replica["version"] = None if first is None else replica["version"] - first
        return body

    def _broadcasts(self) -> dict[str, Any]:
        """How many versions were broadcast, of these how many failed, and how many went by the object store alone."""
        publisher = self.publisher
        return {"weights": dict(publisher.counts)} if isinstance(publisher, BroadcastPublisher) else {}

    def _run(self, itself: Any) -> None:
        try:
            self._run_stages()
        finally:
            # Whatever happened, no actor of this run may outlive it.
            ray.kill(self.store.actor)
            ray.kill(itself)

    def _run_stages(self) -> None:
        about = {"stages": list(self.stages), "environment": environment(living_nodes())}
        self._emit(Event("run", state="started", metrics=about))
        if self.pausing.is_set():
            self._emit(Event("run", state="paused"))
        try:
            for warning in check_fits(self.config, self.stages, living_nodes()):
                self._emit(Event("warning", message=warning))
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
        self.stage = stage
        if self.store.stage_result(stage):
            self._emit(Event("stage", stage, state="skipped"))
            return
        self._emit(Event("stage", stage, state="started"))
        result = self._tokenize() if stage == "tokenize" else self._train(stage)
        self.store.finish_stage(result)
        metrics = result.metrics | {"seconds": result.seconds} | (self._broadcasts() if stage == "rl" else {})
        self._emit(Event("stage", stage, state="done", step=result.steps, metrics=metrics))
        if self.stop.is_set():
            raise Stopped(f"stopped as asked, after stage {stage}")

    def _train(self, stage: str) -> StageResult:
        """Run the loop of a stage; where its learners are lost, from its last checkpoint on again."""
        with self._roles(stage) as context:
            learners, losses = self.learners, Losses(STAGE_RESTARTS)
            assert learners is not None
            while True:
                try:
                    try:
                        if learners.world_size == 0:
                            self.regroup.clear()
                            learners.start()
                            wait_started(self.runtime.pools)
                        # A loop that begins again counts from its checkpoint on.
                        context.rested_s = 0.0
                        return LOOPS[stage](context)
                    finally:
                        # A checkpoint that could not be written must not be reported as written.
                        self.store.flush()
                except (WorkerLost, Regroup) as lost:
                    if isinstance(lost, WorkerLost) and losses.too_many(self.store.checkpoint_step(stage)):
                        raise
                    learners.lost += isinstance(lost, WorkerLost)
                    self._emit(Event("warning", stage, message=f"{self._goes_on(stage)}: {lost}"))
                    learners.close()
                    for pool in self.runtime.pools:
                        pool.forget()

    def _goes_on(self, stage: str) -> str:
        step = self.store.checkpoint_step(stage)
        return (
            f"stage {stage} goes on from its checkpoint of step {step}"
            if step >= 0
            else f"stage {stage} begins anew"
        )

    @contextmanager
    def _roles(self, stage: str) -> Iterator[Context]:
        """Start the actors of a stage, and end them and its learners with it."""
        materials = self.store.materials(self.config, stage)
        shared = ray.put(materials)
        settled = self._settled(stage)
        patience = settled.cluster.patience_s
        self.learners = LearnerGroup(
            settled.learners,
            shared,
            resources=role_resources(LEARNERS),
            patience_s=patience,
            allowed=settled.can_share,
            make_room=self.runtime.make_room,
        )
        try:
            reference = ray.put(self.store.load_weights("pretrain")) if stage in ("sft", "rl") else None

            def start(role: str, make: Callable[..., Any], *args: Any) -> Any:
                config, resources = getattr(settled.actors, role), role_resources(role)
                pool = make(config, *args, resources=resources, patience_s=patience, report=report)
                self.runtime.pools.append(pool.pool)
                return pool

            def report(message: str) -> None:
                self.store.emit(Event("warning", stage, message=message))

            context = Context(
                self.config,
                materials,
                self.runtime,
                self.learners,
                self.store,
                start("evaluate", EvaluatePool, shared),
                self.publisher,
                stop=self.stop,
                regroup=self.regroup,
                pausing=self.pausing,
                keeping=self.keeping,
                timeline=Timeline(self.traced),
            )
            if stage == "sft":
                context.annotators = start("annotate", AnnotatePool, shared, reference)
            if stage == "rl":
                broadcasts = isinstance(self.publisher, BroadcastPublisher)
                rollouts = start("rollout", RolloutPool, shared, broadcasts)
                context.rollouts = rollouts
                if isinstance(self.publisher, BroadcastPublisher):
                    self.publisher.send_to(rollouts.pool.actors, settled.learners, settled.actors.rollout)
                context.rewards = start("reward", RewardPool, shared, reference)
            # What was asked for while they were being made.
            self._take_scaled()
            self.context = context
            with Telling(self, context.timeline):
                yield context
        finally:
            self.context = None
            self.learners.close()
            self.learners = None
            for pool in self.runtime.pools:
                pool.close()
            self.runtime.pools.clear()

    def _settled(self, stage: str) -> Config:
        """The configuration for the cluster that there is, with the replicas that were asked for since."""
        config = self.config
        asked = {role: {"replicas": self.scaled[role]} for role in ROLES[stage] if role in self.scaled}
        actors = {
            role: getattr(config.actors, role).model_copy(update=update) for role, update in asked.items()
        }
        learners = {"world_size": self.scaled[LEARNERS]} if LEARNERS in self.scaled else {}
        config = config.model_copy(
            update={
                "actors": config.actors.model_copy(update=actors),
                "learners": config.learners.model_copy(update=learners),
            }
        )
        return stage_config(config, stage, cluster_gpus())

    def _tokenize(self) -> StageResult:
        """Stage 0; where one of its ranks is lost, again from the texts that are embedded."""
        for attempt in range(STAGE_RESTARTS + 1):
            try:
                return self._make_ids()
            except WorkerLost as lost:
                if attempt == STAGE_RESTARTS:
                    raise
                warning = f"{lost}; stage tokenize starts again from the texts embedded so far"
                self._emit(Event("warning", "tokenize", message=warning))
        raise AssertionError("unreachable")

    def _make_ids(self) -> StageResult:
        """Texts are embedded by all embed actors, then the learner ranks make the ids."""
        started = time.monotonic()
        settled = self._settled("tokenize")
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
        group = TokenizerGroup(
            settled.learners,
            self.config,
            self.store.actor,
            resources=role_resources(LEARNERS),
            patience_s=settled.cluster.patience_s,
        )
        try:
            group.start()
            self.tokenizers = group
            with Telling(self, Timeline(traced=False)):
                task = group.tokenize(*self.store.item_inputs())
                report = self.runtime.receipt(task, "semantic ids", TOKENIZE_DEADLINE_S)
            self.store.save_items(task.payload)
        finally:
            self.tokenizers = None
            group.close()
        report["encoder"] = {"name": self.config.items.encoder, "sha256": encoder}
        report["seconds"] = {"embed": embedded - started, **report["seconds"]}
        return StageResult("tokenize", time.monotonic() - started, 0, report)

    def _emit(self, event: Event) -> None:
        # Waited for: the last event must be on disk before this process ends.
        ray.get(self.store.actor.emit.remote(event), timeout=STORE_DEADLINE_S)


class Losses:
    """How often learners were lost without a newer checkpoint in between."""

    def __init__(self, bearable: int):
        self.bearable, self.count, self.step = bearable, 0, -1

    def too_many(self, step: int) -> bool:
        """Count a loss; `step` is that of the newest checkpoint."""
        self.count = self.count + 1 if step <= self.step else 1
        self.step = max(self.step, step)
        return self.count > self.bearable
