"""The ports of the stage loops in one process: the real work, without Ray. Tasks run when they are waited for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from learners.publisher import WeightPublisher
from streamrec_dist.baselines.config import SCORES_ITEMS
from streamrec_dist.config import Config
from streamrec_dist.config_file import parse_config
from streamrec_dist.data.batches import Corpus
from streamrec_dist.data.build import validate
from streamrec_dist.data.demo import demo_catalogue
from streamrec_dist.data.evidence import EvidenceTable
from streamrec_dist.data.row_counts import Cooccurrence
from streamrec_dist.data.split import training_rows
from streamrec_dist.decode.engine import Engine
from streamrec_dist.events import Event
from streamrec_dist.materials import Materials, arithmetic, laid_rows
from streamrec_dist.model.weights import import_weights, load_vector
from streamrec_dist.rl.advantage import has_signal
from streamrec_dist.rl.ports import Published, Task
from streamrec_dist.rl.rewards import reward_report
from streamrec_dist.rl.rollout import Sampler
from streamrec_dist.rl.scoring import Scorer
from streamrec_dist.rundir import Checkpoint, StageResult
from streamrec_dist.stages.annotate import Annotator, ThinkingMeter
from streamrec_dist.stages.context import Context
from streamrec_dist.stages.decoding import Recommender
from streamrec_dist.stages.item_ranking import item_model_ranks, likely_items
from streamrec_dist.training.learner import Learner
from streamrec_dist.types import GroupCounts

TINY = """
seed: 3
items: {levels: 3, codes: 16, neighbours: 8}
model: {d_model: 32, layers: 1, heads: 2, d_head: 16, d_ff: 64, precision: fp32}
learners: {world_size: 1}
stages:
  retrieve: {epochs: 2, batch: 64, d_model: 16, folds: 2, eval_users: 40}
  pretrain: {epochs: 2, batch: 64, retrieved: 1, eval_users: 40, lr: 0.003}
  sft: {thoughts: 2, rounds: 2, epochs: 1, batch: 64, eval_users: 40, annotate_batch: 128,
        own_thoughts: 0, annotated_items: 1}
  rl: {rows: all, steps: 6, prompts: 16, group_size: 4, negatives: 5, similarity_items: 64, eval_every: 3,
       eval_users: 40, lr: 0.001}
  evaluate: {beam: 10, batch: 32}
baselines:
  sasrec: {epochs: 2, batch: 64, d_model: 16, eval_users: 40, lr: 0.01}
  sasrec_bce: {epochs: 2, batch: 16, d_model: 16, eval_users: 40, lr: 0.01, dropout: 0}
  gru4rec: {epochs: 2, batch: 64, d_model: 16, hidden: 24, eval_users: 40, lr: 0.01}
  tiger: {epochs: 2, batch: 64, eval_users: 40, lr: 0.003}
"""
#: Overrides with which nothing guides the codes of an item: eq. 11 over all codes.
UNGUIDED = ("model.evidence=0", "model.softmax=codes")


def tiny_materials(config: Config | None = None, users: int = 120, items: int = 90) -> Materials:
    """A small demo catalogue with arbitrary unique ids and neighbours."""
    config = config or parse_config(TINY, "tiny")
    dataset = validate(demo_catalogue(users=users, items=items, seed=0))
    rng = np.random.default_rng(0)
    levels, codes = config.items.levels, config.items.codes
    keys = rng.permutation(codes**levels)[: dataset.n_items]
    ids = np.stack([keys // codes**level % codes for level in range(levels)], axis=1).astype(np.int32)
    neighbours = np.stack(
        [
            rng.permutation(np.delete(np.arange(dataset.n_items), item))[: config.items.neighbours]
            for item in range(dataset.n_items)
        ]
    ).astype(np.int32)
    corpus = Corpus.of(dataset, ids, codes, config.data.max_history)
    if not config.model.evidence:
        rows, kept = laid_rows(config, corpus, training_rows(dataset), None)
        return Materials(config, corpus, neighbours, rows, kept=kept)
    # Whatever the evidence says, decoding and training have to make the same of it.
    most = min(config.model.evidence, dataset.n_items)
    items = np.argsort(rng.random((len(corpus.items), dataset.n_items)), axis=1)[:, :most].astype(np.int32)
    evidence = EvidenceTable(items, _shares(rng.random((len(items), most)) ** 4))
    texts = rng.normal(size=(dataset.n_items, 8)).astype(np.float32)
    rows, kept = laid_rows(config, corpus, training_rows(dataset), evidence)
    counts = Cooccurrence.of(corpus)
    return Materials(config, corpus, neighbours, rows, counts, texts, evidence, kept)


def _shares(weights: np.ndarray) -> np.ndarray:
    """Probabilities that leave some for the items that are not named."""
    return (0.8 * weights / weights.sum(axis=1, keepdims=True)).astype(np.float16)


class LocalRuntime:
    """Runs a task's thunk when it is waited for; `order` picks which of several finishes first."""

    def __init__(self, order: Callable[[int], int] = lambda count: 0):
        self.order = order

    def tend(self) -> None: ...

    def wait(self, tasks: Sequence[Task], what: str, timeout_s: float) -> Task:
        return tasks[self.order(len(tasks))]

    def receipt(self, task: Task, what: str, timeout_s: float) -> Any:
        return task.receipt()[0]

    def share(self, value: Any) -> Any:
        return lambda: value

    def value(self, payload: Any) -> Any:
        return payload()


def lazy(work: Callable[[], tuple[Any, Any]]) -> Task:
    """A task that works once, when first looked at; its payload is the way to the second result."""
    done: list[tuple[Any, Any]] = []

    def run() -> tuple[Any, Any]:
        if not done:
            done.append(work())
        return done[0]

    return Task(run, lambda: run()[1])


class LocalLearners:
    def __init__(self, materials: Materials, device: str = "cpu"):
        self.learner = Learner(materials, device=device)
        self.world_size = 1
        self.consumed: list[tuple[int, int]] = []

    def begin(self, stage, total_steps, weights=None, checkpoint=None, step=0, fold=-1) -> None:
        self.learner.begin(stage, total_steps, weights, checkpoint, step, fold)

    def annotate(self, parts) -> None:
        self.learner.annotate([part() for part in parts])

    def train_rows(self, epoch, first, last) -> Task:
        return lazy(lambda: (self.learner.train_rows(epoch, first, last), None))

    def train_groups(self, shards, groups, version) -> Task:
        def work():
            mine = [(rollouts(), rewards(), chosen) for rollouts, rewards, chosen in shards[0]]
            self.consumed += [
                (batch.cursor + int(group), batch.version) for batch, _, chosen in mine for group in chosen
            ]
            metrics = self.learner.train_groups(mine, GroupCounts(groups, groups, groups), version)
            return metrics, self.learner.vector(policy_only=True)

        return lazy(work)

    def vector(self, policy_only=True):
        vector = self.learner.vector(policy_only)
        return lambda: vector

    def weights(self):
        return self.learner.weights()

    def checkpoint(self):
        return self.learner.checkpoint()


class LocalWorkers:
    """Annotators, rollouts, rewards and evaluators at once."""

    def __init__(self, materials: Materials, device: str = "cpu", replicas: int = 2):
        self.materials, self.device, self.replicas = materials, device, replicas
        self.model = materials.new_model().to(device).eval()
        self.engine = Engine(self.model, arithmetic(materials.config))
        self.reference = materials.new_model().to(device).eval()

    def adopt(self, weights: Published):
        load_vector(self.model, weights.vector())
        self.engine.refresh()


class LocalAnnotators(LocalWorkers):
    def submit(self, first, last, round_number, weights) -> Task:
        def work():
            self.adopt(weights)
            reference = Engine(self.reference, arithmetic(self.materials.config))
            return last - first, Annotator(self.materials, self.engine, reference).annotate(
                first, last, round_number
            )

        return lazy(work)


class LocalRollouts(LocalWorkers):
    def submit(self, cursor, count, weights) -> Task:
        def work():
            self.adopt(weights)
            batch = Sampler(self.materials, self.engine).rollout(weights.version, cursor, count)
            return {"version": weights.version, "tokens": batch.tokens.size, "seconds": 0.0}, batch

        return lazy(work)


class LocalRewards(LocalWorkers):
    def __init__(self, materials: Materials, device: str = "cpu"):
        super().__init__(materials, device)
        self.scorer = Scorer(materials, self.reference)

    def submit(self, rollouts) -> Task:
        config = self.materials.config.stages.rl

        def work():
            rewards = self.scorer.score(rollouts())
            signal = has_signal(rewards.total, config.signal)
            return {"signal": signal, "report": reward_report(rewards, config)}, rewards

        return lazy(work)


class LocalEvaluators(LocalWorkers):
    def recommender(self, model, weights) -> Recommender:
        self.adopt(weights)
        return Recommender(self.materials, self.model, model, self.device, self.engine)

    def ranks(self, model, rows, mask_history, weights) -> Task:
        if model in SCORES_ITEMS:
            return lazy(
                lambda: (
                    item_model_ranks(self.item_model(model, weights), self.materials, rows, mask_history),
                    None,
                )
            )
        return lazy(lambda: (self.recommender(model, weights).target_ranks(rows, mask_history), None))

    def invalid_share(self, model, rows, weights) -> Task:
        return lazy(lambda: (self.recommender(model, weights).invalid_beam_share(rows), None))

    def likely_items(self, rows, weights) -> Task:
        return lazy(lambda: (likely_items(self.item_model("retrieve", weights), self.materials, rows), None))

    def item_model(self, name, weights):
        model = self.materials.new_item_model(name).to(self.device).eval()
        load_vector(model, weights.vector())
        return model

    def thinking(self, rows, weights) -> Task:
        def work():
            self.adopt(weights)
            return ThinkingMeter(self.materials, self.engine).measure(rows), None

        return lazy(work)


@dataclass
class MemoryStore:
    events: list[Event] = field(default_factory=list)
    checkpoints: dict[str, list[Checkpoint]] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)
    results: dict[str, StageResult] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    def emit(self, *events: Event) -> None:
        self.events += [Event.from_json(event.to_json()) for event in events]

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        self.checkpoints.setdefault(checkpoint.stage, []).append(checkpoint)

    def newest_checkpoint(self, stage: str) -> Checkpoint | None:
        return (self.checkpoints.get(stage) or [None])[-1]

    def save_weights(self, stage, weights) -> None:
        self.weights[stage] = weights

    def load_weights(self, stage):
        return self.weights[stage]

    def finish_stage(self, result: StageResult) -> None:
        self.results[result.stage] = result

    def save_evidence(self, name, part) -> None:
        self.evidence[name] = part

    def evidence_parts(self) -> list[str]:
        return list(self.evidence)

    def of_kind(self, kind: str, stage: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind and event.stage == stage]


def local_context(
    materials: Materials, store: MemoryStore | None = None, order=lambda count: 0, device: str = "cpu"
) -> Context:
    """A Context whose roles all work in this process, on `device`."""
    context = Context(
        materials.config,
        materials,
        LocalRuntime(order),
        LocalLearners(materials, device),
        store or MemoryStore(),
        LocalEvaluators(materials, device),
        WeightPublisher(),
    )
    context.annotators = LocalAnnotators(materials, device)
    context.rollouts = LocalRollouts(materials, device)
    context.rewards = LocalRewards(materials, device)
    if store and "pretrain" in store.weights:
        for worker in (context.annotators, context.rewards):
            import_weights(worker.reference, store.weights["pretrain"])
    return context
