"""Results on the same targets: whether they may be compared at all, and how they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from streamrec_dist.errors import UsageError
from streamrec_dist.metrics import MEASURED_DEPTH, MEASURES, measured
from streamrec_dist.ranks import TargetRanks
from streamrec_dist.statistics import FLIPS, SAMPLES, holm, paired


def compare(first: TargetRanks, second: TargetRanks, seed: int = 0) -> dict[str, Any]:
    """`second` against `first` in each of MEASURES, ready for JSON; differences are second - first.

    Raises UsageError where they are not of the same targets of the same data, split and masking.
    """
    check_comparable(first, second)
    first, second = _ordered(first), _ordered(second)
    _check_same_targets(first, second)
    a, b = measured(MEASURES, first.ranks), measured(MEASURES, second.ranks)
    found = paired(a, b, first.user_numbers, seed)
    return {
        "a": first.about,
        "b": second.about,
        "split": first.about["split"],
        "masked": first.about["masked"],
        "users": first.n_users,
        "targets": len(first),
        "bootstrap_samples": SAMPLES,
        "flips": FLIPS,
        "measures": {
            name: {
                "a": one.first,
                "b": one.second,
                "difference": one.difference,
                "difference_ci": list(one.interval),
                "relative": one.relative,
                "p": one.p,
                "wins": one.wins,
                "losses": one.losses,
                "ties": one.ties,
            }
            for name, one in zip(MEASURES, found, strict=True)
        },
        "notes": [note for ranks in (first, second) for note in _notes(ranks)],
    }


def compare_each(first: TargetRanks, others: Sequence[TargetRanks], seed: int = 0) -> list[dict[str, Any]]:
    """Each of k `others` against `first`, as `compare` says it; the measures have `p_holm` too.

    That is p adjusted for k comparisons of one measure. Raises UsageError as `compare` does.
    """
    found = [compare(first, other, seed) for other in others]
    for name in MEASURES:
        together = [one["measures"][name] for one in found]
        for one, adjusted in zip(together, holm(np.array([one["p"] for one in together])), strict=True):
            one["p_holm"] = float(adjusted)
    return found


def check_comparable(first: TargetRanks, second: TargetRanks) -> None:
    """Raise UsageError where the two are of another split, masking or data."""
    a, b = first.about, second.about
    if a["split"] != b["split"]:
        raise UsageError(
            f"{first.name} ranks the {a['split']} split, {second.name} the {b['split']} split; compare one split"
        )
    if a["masked"] != b["masked"]:
        masked, allowed = (first, second) if a["masked"] else (second, first)
        raise UsageError(
            f"{masked.name} was evaluated with the history masked, {allowed.name} with it allowed; "
            "evaluate both in one way"
        )
    if a["data"] != b["data"]:
        raise UsageError(
            f"{first.name} and {second.name} work on different data (content hashes {a['data'][:12]} and "
            f"{b['data'][:12]}); differences between them say nothing about the models"
        )


def _ordered(ranks: TargetRanks) -> TargetRanks:
    """By user and position, so that it does not matter in which order a file has them."""
    # Ids are strings: Arrow ranks them without making Python objects.
    user_order = pc.rank(ranks.users.array, tiebreaker="dense").to_numpy()
    return ranks.take(np.lexsort((ranks.positions, user_order)))


def _check_same_targets(first: TargetRanks, second: TargetRanks) -> None:
    same = (
        len(first) == len(second)
        and first.users == second.users
        and first.items == second.items
        and np.array_equal(first.positions, second.positions)
    )
    if same:
        return
    only = pc.invert(pc.is_in(first.users.array, value_set=pc.unique(second.users.array)))
    example = first.users.array.filter(only)
    if len(example) == 0:
        more = pc.invert(pc.is_in(second.users.array, value_set=pc.unique(first.users.array)))
        example = second.users.array.filter(more)
    such = f", such as {example[0].as_py()!r} in one only" if len(example) else ""
    raise UsageError(
        f"{first.name} and {second.name} rank targets of different users ({first.n_users} and "
        f"{second.n_users} of them{such}); evaluate both for the same, with the same --users or without it"
    )


def _notes(ranks: TargetRanks) -> list[str]:
    depth = ranks.about["depth"]
    if depth >= MEASURED_DEPTH:
        return []
    return [f"{ranks.name} ranks {depth} items only: a target beyond them counts as missed at every cut"]
