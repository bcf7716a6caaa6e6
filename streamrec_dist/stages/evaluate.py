"""Evaluation of a run on held-out items: every model and baseline by the same rows and metrics."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamrec_dist.baselines.config import TRAINED
from streamrec_dist.baselines.counting import CountingModel
from streamrec_dist.baselines.popularity import PopularityModel
from streamrec_dist.data.dataset import Dataset
from streamrec_dist.metrics import bootstrap_interval, per_user_ndcg, per_user_recall, ranking_metrics

BASELINES: dict[str, type[CountingModel] | type[PopularityModel]] = {
    "counting": CountingModel,
    "popularity": PopularityModel,
}
#: Stage, or trained baseline, of an evaluation -> the stage whose weights it uses.
WEIGHTS = {"direct": "pretrain"} | {name: name for name in ("retrieve", "pretrain", "sft", "rl", *TRAINED)}
KS = (5, 10)
#: Users of whom the unconstrained beam is looked at; its share of invalid items needs no more.
INVALID_USERS = 500


def baseline_ranks(name: str, dataset: Dataset, rows: np.ndarray, masked: bool, seed: int) -> np.ndarray:
    """Ranks of the targets by a baseline fitted on the training part: int64 [n]."""
    return BASELINES[name].fit(dataset).ranks(dataset, rows, masked, seed)


def metrics_with_intervals(ranks: np.ndarray) -> dict[str, Any]:
    """Recall and NDCG at 5 and 10, each with its 95 % bootstrap interval over users, as `NAME_ci`."""
    metrics: dict[str, Any] = dict(ranking_metrics(ranks, KS))
    for k in KS:
        metrics[f"recall@{k}_ci"] = list(bootstrap_interval(per_user_recall(ranks, k)))
        metrics[f"ndcg@{k}_ci"] = list(bootstrap_interval(per_user_ndcg(ranks, k)))
    return metrics
