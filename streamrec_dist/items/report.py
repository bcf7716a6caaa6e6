"""Numbers that tell how good semantic ids are, for ids of any origin."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streamrec_dist.errors import DataError
from streamrec_dist.json_file import first_problem

#: Text neighbours of each item whose ids are compared with its own.
NEAREST = 10


class Reported(BaseModel):
    """What a report must hold to be shown, also one that was read from the result of a stage."""

    model_config = ConfigDict(strict=True, extra="allow")

    items: int
    levels: int = Field(ge=0, le=64)
    codes: int
    used_codes: list[int]
    perplexity: list[float]
    surplus: int
    surplus_share: float
    largest_group: int
    prefixes: dict[str, list[float]] = {}
    recon: float | None = None
    neighbour_recall: float | None = None
    seconds: dict[str, float] = {}


def check_report(report: dict[str, Any]) -> None:
    """Raise DataError unless a report can be shown."""
    try:
        Reported.model_validate(report)
    except ValidationError as error:
        raise DataError(f"the result of stage tokenize is damaged: {first_problem(error)}") from None


def id_report(codes_before: np.ndarray, codes: np.ndarray, codes_per_level: int) -> dict[str, Any]:
    """How the codes are used and how often items collide.

    `codes_before` [n, j] are the quantised codes before collisions were resolved, `codes` [n, m] the ids. Used
    codes and perplexity (the exponential of the entropy; at most `codes_per_level`) are lists by level of the ids;
    `surplus` counts the items beyond the first of each collision, `largest_group` the items of the largest.
    """
    _, group_sizes = np.unique(codes_before, axis=0, return_counts=True)
    shares = [np.bincount(column, minlength=codes_per_level) / len(codes) for column in codes.T]
    return {
        "items": len(codes),
        "levels": codes.shape[1],
        "codes": codes_per_level,
        "used_codes": [int((share > 0).sum()) for share in shares],
        "perplexity": [
            float(np.exp(-(share[share > 0] * np.log(share[share > 0])).sum())) for share in shares
        ],
        "surplus": len(codes) - len(group_sizes),
        "surplus_share": 1 - len(group_sizes) / len(codes),
        "largest_group": int(group_sizes.max()),
    }


def prefix_sharing(codes: np.ndarray, neighbours: np.ndarray, seed: int = 0) -> dict[str, list[float]]:
    """Whether items with like texts have like ids: how often they share the first 1, 2, .. m codes.

    `codes` [n, m], `neighbours` [n, k] nearest first. `neighbours` is the share among an item and its ten nearest,
    `random` among an item and ten others drawn at random; ids that carry the texts have the first far above the
    second.
    """
    near = neighbours[:, :NEAREST]
    if near.shape[1] == 0:
        return {"neighbours": [], "random": []}
    drawn = np.random.default_rng(seed).integers(0, len(codes) - 1, near.shape)
    # Shifted past the item itself, so that all others are equally likely.
    others = drawn + (drawn >= np.arange(len(codes))[:, None])
    return {"neighbours": _shares(codes, near), "random": _shares(codes, others)}


def _shares(codes: np.ndarray, partners: np.ndarray) -> list[float]:
    same = codes[:, None, :] == codes[partners]
    return np.logical_and.accumulate(same, axis=2).mean(axis=(0, 1)).tolist()
