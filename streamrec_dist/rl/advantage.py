"""Group-relative advantages, and which groups have something to say (section 2.4.1)."""

from __future__ import annotations

import numpy as np

STD_FLOOR = 0.1


def group_advantages(rewards: np.ndarray, normalise: str) -> np.ndarray:
    """Advantages float32 [P, G] of rewards [P, G]: centred in the group, then divided by its spread.

    `floored_std` divides by max(std, .1), so that a group of near-equal rewards is not blown up; `std` by the
    plain std (a group without spread stays 0); `centred` not at all.
    """
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    std = rewards.std(axis=1, keepdims=True)
    if normalise == "floored_std":
        centred = centred / np.maximum(std, STD_FLOOR)
    elif normalise == "std":
        centred = np.divide(centred, std, out=np.zeros_like(centred), where=std > 0)
    return centred.astype(np.float32)


def has_signal(rewards: np.ndarray, smallest_range: float) -> np.ndarray:
    """Groups whose total rewards [P, G] differ enough to learn from: bool [P]."""
    return np.ptp(rewards, axis=1) >= smallest_range


def advantage_shares(components: dict[str, np.ndarray], total: np.ndarray) -> dict[str, float]:
    """What share of the total's within-group variance each weighted component [P, G] accounts for.

    The covariance of a component with the total, over the total's variance: the shares add up to 1, and a term
    that works against the others is negative. All 0 where the total has no variance.
    """
    centred = total - total.mean(axis=1, keepdims=True)
    variance = float((centred**2).mean())
    if variance == 0:
        return dict.fromkeys(components, 0.0)
    return {
        name: float(((values - values.mean(axis=1, keepdims=True)) * centred).mean()) / variance
        for name, values in components.items()
    }
