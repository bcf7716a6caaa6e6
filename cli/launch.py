"""What the commands start on a cluster: runs, and evaluations."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.calls import RayRuntime, explained
from actors.evaluate import EvaluatePool
from actors.placement import check_fits, cluster_gpus, living_nodes, role_resources, stage_config
from actors.pool import wait_started
from cli.asking import CONTROLLER_DEADLINE_S, controller_name, going_already
from cli.controller import Controller
from cli.decoding import DecodingOptions, decoding, suffix
from cli.plan import RunPlan
from streamrec_dist.baselines.config import SCORES_ITEMS
from streamrec_dist.baselines.item_model import ItemModel
from streamrec_dist.config import Config
from streamrec_dist.data.split import rows_of_some, split_rows
from streamrec_dist.errors import DataError, EnvironmentProblem
from streamrec_dist.hardware import resolve_precision
from streamrec_dist.materials import Materials
from streamrec_dist.model.weights import flatten, import_weights
from streamrec_dist.ranks import TargetRanks
from streamrec_dist.rl.ports import Published
from streamrec_dist.rundir import RunDir
from streamrec_dist.stages.context import DEADLINE_S
from streamrec_dist.stages.decoding import Recommender
from streamrec_dist.stages.evaluate import (
    BASELINES,
    INVALID_USERS,
    WEIGHTS,
    baseline_ranks,
    judge,
    of_users,
    record,
    result_name,
)
from streamrec_dist.stages.item_ranking import item_model_ranks
from streamrec_dist.stages.recommend import explain_rows, given_history, user_history
from streamrec_dist.stages.recommend import recommend as rank_items
from streamrec_dist.stages.run_store import RunStore
from streamrec_dist.summary_file import keep_inherited
from streamrec_dist.types import PolicyVersion

CONTROLLER_RESTARTS = 100
#: Users that are drawn for an example that is shown, so that some of them are hits; items of an example.
DRAWN, EXAMPLE_ITEMS = 16, 10
#: Users of one evaluation call: enough to fill batches, few enough to show progress.
EVALUATION_CHUNK = 256


def create_run(plan: RunPlan) -> RunDir:
    """A new run directory with its prepared data. Data that cannot be used leave nothing behind.

    `model.precision: auto` is settled here, for this cluster, so that the run's file says what it computes with.
    """
    config = resolve_precision(plan.config, cluster_gpus() > 0)
    if plan.source:
        run = plan.source.branch(plan.name, config, plan.taken)
    else:
        run = RunDir.create(plan.runs, plan.name, config)
    try:
        if plan.source:
            keep_inherited(run)
        RunStore(run.path).dataset()
    except BaseException:
        shutil.rmtree(run.path)
        raise
    return run


def start_run(
    config: Config,
    runs: Path,
    name: str,
    stages: tuple[str, ...],
    controller_class: type[Controller] = Controller,
    traced: bool = False,
) -> None:
    """Start the detached controller of an existing run directory; `traced`, it writes what every process did when.

    Raises UsageError when one works on it already, EnvironmentProblem when it does not come up in time, RunError when
    it cannot begin.
    """
    head = _head_node()
    strategy = NodeAffinitySchedulingStrategy(node_id=head, soft=False)
    options = {
        "name": controller_name(runs / name),
        "lifetime": "detached",
        "num_cpus": 0,
        "max_restarts": CONTROLLER_RESTARTS,
        "scheduling_strategy": strategy,
    }
    make = ray.remote(controller_class).options(**options)
    try:
        controller: Any = make.remote(runs / name, config, stages, head, traced)
    except ray.exceptions.ActorAlreadyExistsError:
        raise going_already(name) from None
    try:
        _begin(controller)
        RunDir(runs / name).started()
    except BaseException:
        # Left behind it would be taken for a run that is going. Its store ends with it.
        ray.kill(controller)
        raise


def _begin(controller: Any) -> None:
    try:
        ray.get(controller.start.remote(), timeout=CONTROLLER_DEADLINE_S)
    except ray.exceptions.GetTimeoutError:
        raise EnvironmentProblem(
            f"the controller did not start within {CONTROLLER_DEADLINE_S:.0f} s; see `streamrec-dist status`"
        ) from None
    except ray.exceptions.RayError as error:
        raise explained(error, "the start of the controller") from None


def check_room(plan: RunPlan, stages: tuple[str, ...]) -> None:
    """Raise ConfigError where the connected cluster cannot hold a stage; what it says else, the controller tells."""
    check_fits(plan.config, stages, living_nodes())


def evaluate_run(
    run: RunDir,
    stage: str,
    split: str,
    mask_history: bool,
    users: int | None,
    use_cluster: bool,
    on_progress: Callable[[int, int], None],
    options: DecodingOptions,
) -> dict[str, Any]:
    """Metrics of one stage's model, or of a baseline, with the counting baseline under the same masking.

    `users` evaluates a fixed random choice of them; `on_progress(done, all)` counts targets. The result and the rank
    of every target are written to the run. What is decoded in another way than the run's configuration says, or of
    some users only, is kept beside the run's own result, under a name that says so.

    Raises UsageError for options that the stage has no use for and for a stage that is not trained yet, DataError for
    a split without targets and for data, ids, evidence or weights that are missing, damaged or of another model.
    """
    config, store = options.config(run, stage), RunStore(run.path)
    dataset, decoded = store.dataset(), decoding(stage, config)
    rows = split_rows(dataset, split)
    if len(rows) == 0:
        raise DataError(f"no user has a {split} target under the split {dataset.recipe.get('split')}")
    if users is not None:
        rows = some_of(rows, users)

    def judged(name: str, ranks: np.ndarray) -> TargetRanks:
        how = decoding(name, config)
        return judge(
            dataset, rows, ranks, run=run.name, stage=name, split=split, masked=mask_history, decoding=how
        )

    counting = judged("counting", baseline_ranks("counting", dataset, rows, mask_history, config.seed))
    invalid: float | None = None
    if stage in BASELINES:
        ranks = baseline_ranks(stage, dataset, rows, mask_history, config.seed)
        on_progress(len(rows), len(rows))
    else:
        rank = _rank_on_cluster if use_cluster else _rank_here
        ranks, invalid = rank(store, config, stage, rows, mask_history, on_progress)
    other = suffix(decoded) if decoded != decoding(stage, run.config()) else ""
    other += of_users(users)
    name = result_name(stage, split, mask_history, other)
    return record(run, name, judged(stage, ranks), counting, invalid)


def recommend(
    run: RunDir,
    user: str | None,
    history: list[str] | None,
    k: int,
    stage: str | None,
    options: DecodingOptions,
) -> dict[str, Any]:
    """The best k items for a user of the data set or for a given history, in this process."""
    stage = stage or run.last_model()
    config, store = options.config(run, stage), RunStore(run.path)
    dataset = store.dataset()
    items = user_history(dataset, user) if user is not None else given_history(dataset, history or [])
    materials = store.materials(config, "retrieve" if config.model.evidence else stage)
    retriever = _item_model(materials, store, "retrieve") if config.model.evidence else None
    found = rank_items(_recommender(materials, store, stage), retriever, dataset, items, k)
    return {"run": run.name, "stage": stage, "user": user, "synthetic": dataset.synthetic, **found}


def examples(run: RunDir, count: int) -> dict[str, Any]:
    """Recommendations of the run's last model to some validation users, chosen by the run's seed, in this process.

    As `streamrec_dist.stages.recommend.explain_rows` has them; most of those that are drawn are not shown. Raises
    UsageError for a run without a trained model, DataError as `evaluate_run` does.
    """
    stage = run.last_model()
    config, store = run.config(), RunStore(run.path)
    dataset, materials = store.dataset(), store.materials(config, stage)
    rows = split_rows(dataset, "valid")
    drawn = np.random.default_rng([config.seed, 3]).permutation(len(rows))[: DRAWN * count]
    recommender = _recommender(materials, store, stage)
    found = explain_rows(recommender, dataset, rows[np.sort(drawn)], count, EXAMPLE_ITEMS)
    parameters = sum(parameter.numel() for parameter in recommender.model.parameters())
    data = f"{dataset.name}: {dataset.users:,} users, {dataset.n_items:,} items, {dataset.n_interactions:,} events"
    return {"stage": stage, "data": data, "synthetic": dataset.synthetic, "parameters": parameters, **found}


def _recommender(materials: Materials, store: RunStore, stage: str) -> Recommender:
    model = materials.new_model()
    import_weights(model, store.load_weights(WEIGHTS[stage]))
    return Recommender(materials, model, stage)


def _item_model(materials: Materials, store: RunStore, name: str) -> ItemModel:
    model = materials.new_item_model(name)
    import_weights(model, store.load_weights(name))
    return model.eval()


def _rank_here(
    store: RunStore,
    config: Config,
    stage: str,
    rows: np.ndarray,
    mask_history: bool,
    on_progress: Callable[[int, int], None],
) -> tuple[np.ndarray, float | None]:
    materials = store.materials(config, stage)
    if stage in SCORES_ITEMS:
        ranks = item_model_ranks(_item_model(materials, store, stage), materials, rows, mask_history)
        on_progress(len(rows), len(rows))
        return ranks, None
    recommender = _recommender(materials, store, stage)
    parts = []
    for first in range(0, len(rows), EVALUATION_CHUNK):
        parts.append(recommender.target_ranks(rows[first : first + EVALUATION_CHUNK], mask_history))
        on_progress(min(first + EVALUATION_CHUNK, len(rows)), len(rows))
    return np.concatenate(parts), recommender.invalid_beam_share(some_of(rows, INVALID_USERS))


def _rank_on_cluster(
    store: RunStore,
    config: Config,
    stage: str,
    rows: np.ndarray,
    mask_history: bool,
    on_progress: Callable[[int, int], None],
) -> tuple[np.ndarray, float | None]:
    saved = store.load_weights(WEIGHTS[stage])
    materials = store.materials(config, stage)
    scores_items = stage in SCORES_ITEMS
    model: torch.nn.Module = materials.new_item_model(stage) if scores_items else materials.new_model()
    import_weights(model, saved)
    weights = Published(PolicyVersion(0), ray.put(flatten(model, policy_only=False)))
    settled = stage_config(config, "pretrain", cluster_gpus())
    patience = settled.cluster.patience_s
    evaluators = EvaluatePool(
        settled.actors.evaluate,
        ray.put(materials),
        resources=role_resources("evaluate"),
        patience_s=patience,
        report=lambda message: print(message, file=sys.stderr),
    )
    runtime = RayRuntime()
    runtime.pools.append(evaluators.pool)
    try:
        wait_started(runtime.pools)
        parts = [rows[first : first + EVALUATION_CHUNK] for first in range(0, len(rows), EVALUATION_CHUNK)]
        tasks = [evaluators.ranks(stage, part, mask_history, weights) for part in parts]
        some, share = some_of(rows, INVALID_USERS), None
        if not scores_items:
            share = evaluators.invalid_share(stage, some, weights)
        ranks = []
        for task in tasks:
            ranks.append(runtime.receipt(task, "evaluation", DEADLINE_S))
            on_progress(sum(len(done) for done in ranks), len(rows))
        invalid = runtime.receipt(share, "evaluation", DEADLINE_S) if share else None
        return np.concatenate(ranks), invalid
    finally:
        evaluators.pool.close()


def some_of(rows: np.ndarray, count: int) -> np.ndarray:
    """The rows of at most `count` users, chosen at random and the same ones in every run."""
    return rows_of_some(rows, count, np.random.default_rng(0))


def _head_node() -> str:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    head = [node for node in nodes if "node:__internal_head__" in node["Resources"]]
    return (head or nodes)[0]["NodeID"]
