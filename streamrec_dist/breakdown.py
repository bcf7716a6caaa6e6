"""Measures of groups of targets: by the length of the history, by popularity, and of items new since training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from streamrec_dist.metrics import measured
from streamrec_dist.ranks import TargetRanks
from streamrec_dist.statistics import bootstrap_intervals

GROUPED = ("recall@10", "ndcg@10")
#: First length of each bin of histories. In data with five events a user (Beauty, Scientific), 1-4 are the users with
#: the fewest, a third of the test targets; 5-9 are half; from 20 on (1 to 5 %) a model that reads the last 20 items
#: does not see all of a history.
HISTORY_BINS = (1, 5, 10, 20)


def breakdowns(ranks: TargetRanks) -> dict[str, dict[str, dict[str, Any]]]:
    """{"history", "popularity", "cold"} -> {group: its measures}. No group depends on the ranks.

    history: events before the target, in HISTORY_BINS. popularity: q1 (least) to q4 (most): quarters of the *items*
    that occur in training, by how often they do; so they are the same for both splits, and q4 has by far the
    most targets. cold: targets that the training part has ("seen") and that it never has ("cold", in no quarter).
    """
    return {
        "history": _measured(ranks, dict(_by_history(ranks.history_lengths))),
        "popularity": _measured(ranks, dict(_by_popularity(ranks))),
        "cold": _measured(ranks, {"seen": (ranks.popularity > 0, {}), "cold": (ranks.popularity == 0, {})}),
    }


Group = tuple[np.ndarray, dict[str, Any]]


def _by_history(lengths: np.ndarray) -> Iterator[tuple[str, Group]]:
    ends = [first - 1 for first in HISTORY_BINS[1:]]
    for first, last in zip(HISTORY_BINS, [*ends, None], strict=True):
        name = f"{first}+" if last is None else f"{first}-{last}"
        yield name, (_within(lengths, first, last), {})


def _by_popularity(ranks: TargetRanks) -> Iterator[tuple[str, Group]]:
    edges = ranks.about["popularity_quartiles"]
    bounds = zip([1, *(edge + 1 for edge in edges)], [*edges, None], strict=True)
    for number, (first, last) in enumerate(bounds, start=1):
        yield f"q{number}", (_within(ranks.popularity, first, last), {"interactions": [first, last]})


def _within(values: np.ndarray, first: int, last: int | None) -> np.ndarray:
    return (values >= first) & (values <= (np.inf if last is None else last))


def _measured(ranks: TargetRanks, groups: Mapping[str, Group]) -> dict[str, dict[str, Any]]:
    users, values = ranks.user_numbers, measured(GROUPED, ranks.ranks)
    return {
        name: {**more, **_group(values[inside], users[inside])} for name, (inside, more) in groups.items()
    }


def _group(values: np.ndarray, users: np.ndarray) -> dict[str, Any]:
    """Counts, means and 95 % intervals of one group's `values` [n, m]; None where it is empty."""
    counts = {"targets": len(values), "users": len(np.unique(users))}
    if len(values) == 0:
        return {**counts, **{key: None for name in GROUPED for key in (name, f"{name}_ci")}}
    intervals = bootstrap_intervals(values, users).tolist()
    means = values.mean(axis=0).tolist()
    for name, mean, interval in zip(GROUPED, means, intervals, strict=True):
        counts |= {name: mean, f"{name}_ci": interval}
    return counts
