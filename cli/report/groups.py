"""Metrics of a stage in groups that are looked at together."""

from __future__ import annotations

import re
from collections.abc import Collection

from streamrec_dist.types import REWARDS

#: What begins with one of the words, or is it, belongs to the group: the first that takes it.
GROUPS = {
    "losses": ("loss", "nll", "bce", "recon", "thinking", "direct", "dpo", "quantisation", "state"),
    "validation": ("ndcg@", "recall@", "mrr@"),
    "rewards": ("reward/", "raw_likelihood"),
    "spreads of rewards within groups": ("spread/",),
    "shares of the advantage": ("share/",),
    "policy": ("kl", "ratio", "clip_share", "entropy", "policy_gap", "ppo_kl_at_equal_version"),
    "optimiser": ("grad_norm", "lr"),
    "rollouts": ("staleness", "version", "buffered", "no_signal", "no_step", "adopted_s"),
    "throughput": (
        *("rows_per_s", "rollouts_per_s", "tokens_per_s", "groups_per_s", "learner_idle", "rollout_idle"),
        *("embedded", "seconds"),
    ),
    "seconds of all processes by part of a step": ("time/",),
}
OTHERS, ALL, FOLD = "others", "all metrics", "fold "
#: Metrics of a fold of stage retrieve (`StageSummary.prefix`).
OF_FOLD = re.compile(r"fold-(\d{1,18})/(?!fold-)")
#: So many are looked at together.
FEW = 16
#: Ends of words that take whatever begins so.
OPEN = ("/", "@")


def grouped(metrics: Collection[str]) -> dict[str, list[str]]:
    """Group -> its metrics, both in the order of GROUPS, what none takes in the last; few metrics are one group."""
    order = [*REWARDS, "total"]
    found: dict[str, list[tuple[int, int, str]]] = {}
    for metric in metrics:
        group, place = _group(metric)
        last = metric.rpartition("/")[2]
        within = order.index(last) if last in order else len(order)
        found.setdefault(group, []).append((place, within, metric))
    folds = sorted(
        (group for group in found if group.startswith(FOLD)), key=lambda group: (len(group), group)
    )
    names = [*(group for group in (*GROUPS, OTHERS) if group in found), *folds]
    made = {group: [name for *_, name in sorted(found[group])] for group in names}
    return (
        made
        if len(metrics) > FEW
        else {ALL: [name for group in made.values() for name in group]}
        if made
        else {}
    )


def _group(metric: str) -> tuple[str, int]:
    if fold := OF_FOLD.match(metric):
        # All of a training of its own, in the order of their groups.
        group, place = _group(metric[fold.end() :])
        return f"{FOLD}{fold[1]}", 100 * [*GROUPS, OTHERS].index(group) + place
    for group, words in GROUPS.items():
        for place, word in enumerate(words):
            if metric == word or (word.endswith(OPEN) and metric.startswith(word)):
                return group, place
    return OTHERS, 0
