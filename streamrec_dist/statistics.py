"""Uncertainty over users: bootstrap intervals, and a paired test of two models on the same users.

A user may have several targets, which are alike; so users are drawn and flipped as a whole, never single targets. All
measures share the draws, and users with the same values are interchangeable: only how many of each kind are drawn
is sampled. Under leave-one-out there are some twenty kinds (the ranks that count), whatever the number of users.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from streamrec_dist.errors import RunError

SAMPLES = 1000
FLIPS = 10_000
LEVEL = 0.95
#: Numbers drawn at a time: bounds the memory.
CHUNK = 1 << 22


def user_sums(values: np.ndarray, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of each user's `values` [n, m], float64 [U, m], and how many there are, int64 [U].

    `users` [n] says whose target it is, in any numbers; U are the different ones. Raises RunError for none.
    """
    if len(values) == 0:
        raise RunError("there are no values to resample: the split has no users")
    _, place = np.unique(users, return_inverse=True)
    sums = [np.bincount(place, weights=column) for column in values.T]
    return np.stack(sums, axis=1), np.bincount(place)


def bootstrap_intervals(
    values: np.ndarray, users: np.ndarray, seed: int = 0, samples: int = SAMPLES, level: float = LEVEL
) -> np.ndarray:
    """Percentile bootstrap intervals over users of each column's mean: float64 [m, 2].

    `values` float64 [n, m] holds m measures of n targets, `users` [n] whose they are. A sample draws U of the U
    users with replacement; its mean is that of all the targets of those drawn.
    """
    sums, targets = user_sums(values, users)
    kinds, sizes = np.unique(np.column_stack([sums, targets]), axis=0, return_counts=True)
    rng, means = np.random.default_rng(seed), []
    for count in _chunks(samples, len(kinds)):
        totals = rng.multinomial(len(sums), sizes / len(sums), size=count) @ kinds
        means.append(totals[:, :-1] / totals[:, -1:])
    tails = [(1 - level) / 2, (1 + level) / 2]
    return np.quantile(np.concatenate(means), tails, axis=0).T


def sign_flip_p(differences: np.ndarray, seed: int = 0, flips: int = FLIPS) -> np.ndarray:
    """Two-sided p-values of a paired randomisation test: float64 [m].

    `differences` float64 [U, m] are those of each user. Were the models equal, each user's could as well have the
    other sign: p = (1 + #{flips with |sum| >= |sum observed|}) / (1 + flips).
    """
    observed = np.abs(differences.sum(axis=0))
    # Sums of the same numbers in another order may differ in their last bits, and count as equal.
    slack = 1e-12 * np.abs(differences).sum(axis=0)
    kinds, sizes = np.unique(differences[differences.any(axis=1)], axis=0, return_counts=True)
    rng, extreme = np.random.default_rng(seed), np.zeros(differences.shape[1])
    for count in _chunks(flips, len(kinds)):
        flipped = rng.binomial(sizes, 0.5, size=(count, len(kinds)))
        extreme += (np.abs((sizes - 2 * flipped) @ kinds) >= observed - slack).sum(axis=0)
    return (1 + extreme) / (1 + flips)


def holm(p: np.ndarray) -> np.ndarray:
    """p-values float64 [k] of k tests, adjusted by Holm's method: float64 [k], in the same order.

    Those below a level are significant together: the chance that any of them is so by luck is below it.
    """
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(raised, 1.0)
    return adjusted


@dataclass(frozen=True)
class Paired:
    """One measure of two models on the same targets."""

    first: float
    second: float
    difference: float  # second - first
    interval: tuple[float, float]  # 95 % bootstrap, of the difference
    p: float  # two-sided, of the sign-flip test
    wins: int  # users for whom the second is better
    losses: int
    ties: int

    @property
    def relative(self) -> float | None:
        """The difference as a share of the first; None where that is 0."""
        return self.difference / self.first if self.first else None


def paired(first: np.ndarray, second: np.ndarray, users: np.ndarray, seed: int = 0) -> list[Paired]:
    """Compare two models in m measures: `first` and `second` float64 [n, m] of the same targets of `users` [n]."""
    differences = second - first
    sums, _ = user_sums(differences, users)
    p = sign_flip_p(sums, seed)
    intervals = bootstrap_intervals(differences, users, seed)
    # Of several targets a gain and a loss may cancel but for their last bits.
    signs = np.sign(np.where(np.abs(sums) < 1e-12, 0.0, sums))
    return [
        Paired(
            first=float(first[:, column].mean()),
            second=float(second[:, column].mean()),
            difference=float(differences[:, column].mean()),
            interval=(float(intervals[column, 0]), float(intervals[column, 1])),
            p=float(p[column]),
            wins=int((signs[:, column] > 0).sum()),
            losses=int((signs[:, column] < 0).sum()),
            ties=int((signs[:, column] == 0).sum()),
        )
        for column in range(differences.shape[1])
    ]


def _chunks(draws: int, width: int) -> Iterator[int]:
    """How many of `draws` rows of `width` numbers to make at a time."""
    step = max(1, CHUNK // max(width, 1))
    for start in range(0, draws, step):
        yield min(step, draws - start)
