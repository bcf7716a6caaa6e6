"""Evaluation of a run on held-out items: every model and baseline by the same rows and measures.

rows --any model--> ranks --TargetRanks.of--> results/NAME.parquet
                                 |--summary--> results/NAME.json
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamrec_dist.baselines.config import TRAINED
from streamrec_dist.baselines.counting import CountingModel
from streamrec_dist.baselines.popularity import PopularityModel
from streamrec_dist.baselines.ranking import RANKED_DEPTH
from streamrec_dist.breakdown import breakdowns
from streamrec_dist.data.dataset import Dataset
from streamrec_dist.metrics import MEASURES, measured
from streamrec_dist.ranks import TargetRanks, save_ranks
from streamrec_dist.rundir import RunDir
from streamrec_dist.statistics import bootstrap_intervals

BASELINES: dict[str, type[CountingModel] | type[PopularityModel]] = {
    "counting": CountingModel,
    "popularity": PopularityModel,
}
#: Stage, or trained baseline, of an evaluation -> the stage whose weights it uses.
WEIGHTS = {"direct": "pretrain"} | {name: name for name in ("retrieve", "pretrain", "sft", "rl", *TRAINED)}
#: Users of whom the unconstrained beam is looked at; its share of invalid items needs no more.
INVALID_USERS = 500


def baseline_ranks(name: str, dataset: Dataset, rows: np.ndarray, masked: bool, seed: int) -> np.ndarray:
    """Ranks of the targets by a baseline fitted on the training part: int64 [n]."""
    return BASELINES[name].fit(dataset).ranks(dataset, rows, masked, seed)


def result_name(stage: str, split: str, masked: bool, other: str = "") -> str:
    """The name of a result's files; `other` says how it differs from the run's own, such as `-beam50`."""
    return f"{stage}-{split}{'-masked' if masked else ''}{other}"


def of_users(users: int | None) -> str:
    """What the name of a result of some users only ends in."""
    return f"-{users}users" if users is not None else ""


def judge(
    dataset: Dataset,
    rows: np.ndarray,
    ranks: np.ndarray,
    *,
    run: str,
    stage: str,
    split: str,
    masked: bool,
    decoding: dict[str, Any] | None,
) -> TargetRanks:
    """What any model's `ranks` int64 [n] of the targets of rows [n, 2] are worth; `decoding` None: it scores all."""
    about = {
        "run": run,
        "stage": stage,
        "split": split,
        "masked": masked,
        "decoding": decoding,
        "depth": decoding["beam"] if decoding else RANKED_DEPTH,
        "synthetic": dataset.synthetic,
    }
    return TargetRanks.of(dataset, rows, ranks, about)


def summary(ranks: TargetRanks) -> dict[str, Any]:
    """Each of MEASURES, its 95 % bootstrap interval over users as `NAME_ci`, and `by`: those of groups."""
    values = measured(MEASURES, ranks.ranks)
    intervals = bootstrap_intervals(values, ranks.user_numbers).tolist()
    body: dict[str, Any] = dict(zip(MEASURES, values.mean(axis=0).tolist(), strict=True))
    body |= {f"{name}_ci": interval for name, interval in zip(MEASURES, intervals, strict=True)}
    return {**body, "by": breakdowns(ranks)}


def record(
    run: RunDir, name: str, ranks: TargetRanks, counting: TargetRanks, invalid_beam_share: float | None
) -> dict[str, Any]:
    """Write a result as results/NAME.parquet and NAME.json, and return the latter.

    `counting` are the counting baseline's ranks of the same rows under the same masking.
    """
    floor = summary(counting)
    about = ("run", "stage", "split", "masked", "decoding")
    result = {
        **{key: ranks.about[key] for key in about},
        "users": ranks.n_users,
        "targets": len(ranks),
        **summary(ranks),
        "counting_ndcg@10": floor["ndcg@10"],
        "invalid_beam_share": invalid_beam_share,
        "synthetic": ranks.about["synthetic"],
        "counting": floor,
    }
    save_ranks(run.ranks_path(name), ranks)
    run.write_result(name, result)
    return result
