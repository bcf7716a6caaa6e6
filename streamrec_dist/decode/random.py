"""Random numbers addressed by what they are for, so that a sample does not depend on its batch."""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: a bijection of 64-bit words whose output bits look independent."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def row_keys(rows: np.ndarray) -> np.ndarray:
    """A key int64 [n] for each of rows int64 [n, 2] (user, position): however rows are shared out, the same draws."""
    return rows[:, 0] * 2**20 + rows[:, 1]


def rollout_uniforms(seed: int, cursors: np.ndarray, group: int, length: int) -> np.ndarray:
    """Uniform numbers in [0, 1), float32 [prompts, group, length], keyed by (seed, cursor, sample, place).

    cursors int64 [prompts] are the prompts' numbers in the run's order.
    """
    with np.errstate(over="ignore"):
        key = _mix(np.array(seed, dtype=np.uint64) * _GOLDEN + np.uint64(1))
        prompt = _mix(cursors.astype(np.uint64) * _GOLDEN + key)
        sample = _mix(prompt[:, None] + np.arange(1, group + 1, dtype=np.uint64) * _GOLDEN)
        word = _mix(sample[:, :, None] + np.arange(1, length + 1, dtype=np.uint64) * _GOLDEN)
    # 24 bits: every value is a float32, and none rounds up to 1.
    return (word >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
