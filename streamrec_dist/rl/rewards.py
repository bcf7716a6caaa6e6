"""The five rewards of stage 3 (section 2.4.2), as functions over the columns of a RolloutBatch."""

from __future__ import annotations

import numpy as np

from streamrec_dist.config import RlConfig
from streamrec_dist.rl.advantage import advantage_shares
from streamrec_dist.types import REWARDS, RewardBreakdown, RolloutBatch


def format_reward(valid: np.ndarray) -> np.ndarray:
    """Eq. 21: 0 where the last m tokens are an item of the catalogue (bool [P, G]), -1 elsewhere."""
    return np.where(valid, 0.0, -1.0).astype(np.float32)


def exact_match_reward(item_tokens: np.ndarray, target_tokens: np.ndarray) -> np.ndarray:
    """Eq. 22-23: length of the longest matching prefix; int [P, G, m] against [P, m], invalid items too."""
    match = item_tokens == target_tokens[:, None]
    return np.cumprod(match, axis=-1).sum(axis=-1).astype(np.float32)


def similarity_share(
    pooled: np.ndarray,
    target_states: np.ndarray,
    other_states: np.ndarray,
    target_items: np.ndarray,
    other_items: np.ndarray,
) -> np.ndarray:
    """Eq. 25: share of items no more similar to the rollout than its own target, which counts: float32 [P, G].

    pooled [P, G, d]; target_states [P, d] of target_items [P]; other_states [C, d] of other_items [C], distinct;
    similarity is the cosine. A target that is among the others is counted once.
    """
    pooled, target_states, other_states = (_unit(x) for x in (pooled, target_states, other_states))
    own = (pooled * target_states[:, None]).sum(axis=-1)
    others = pooled @ other_states.T
    other = (other_items != target_items[:, None])[:, None]
    below = ((others <= own[..., None]) & other).sum(axis=-1)
    return ((below + 1) / (other.sum(axis=-1) + 1)).astype(np.float32)


def similarity_reward(share: np.ndarray) -> np.ndarray:
    """Eq. 24, by thresholds on the share of eq. 25."""
    return np.select([share >= 0.99, share >= 0.95, share >= 0.5], [0.5, 0.1, 0.05], -0.1).astype(np.float32)


def likelihood_reward(delta: np.ndarray, levels: int, kind: str) -> np.ndarray:
    """Eq. 26 on delta = log P(target | thoughts) - log pi_ref(target), [P, G].

    The raw difference is unbounded and its reference term is the same for the whole group; `squashed` is
    tanh((delta - group mean) / m), `raw` is delta.
    """
    if kind == "raw":
        return delta.astype(np.float32)
    return np.tanh((delta - delta.mean(axis=1, keepdims=True)) / levels).astype(np.float32)


def target_rank(candidate_logprobs: np.ndarray) -> np.ndarray:
    """Rank p from 1 of the target, candidate 0, among itself and its negatives: int64 [P, G]; ties count against."""
    return 1 + (candidate_logprobs[..., 1:] >= candidate_logprobs[..., :1]).sum(axis=-1)


def ranking_reward(rank: np.ndarray, negatives: int) -> np.ndarray:
    """Eq. 27 with 1-based ranks: .2 first, .1 below .1 N, .05 below .2 N, -.1 from .5 N on, 0 between."""
    conditions = [rank == 1, rank < 0.1 * negatives, rank < 0.2 * negatives, rank >= 0.5 * negatives]
    return np.select(conditions, [0.2, 0.1, 0.05, -0.1], 0.0).astype(np.float32)


def score_rollouts(
    batch: RolloutBatch,
    config: RlConfig,
    valid: np.ndarray,
    target_items: np.ndarray,
    target_tokens: np.ndarray,
    reference: np.ndarray,
) -> RewardBreakdown:
    """All rewards of a batch and their weighted total.

    valid bool [P, G]: the item is in the catalogue; target_items int64 [P]; target_tokens int64 [P, m];
    reference float32 [P]: log pi_ref(target | history) of the frozen direct decoder.
    """
    levels = target_tokens.shape[-1]
    share = similarity_share(
        batch.pooled, batch.target_states, batch.other_states, target_items, batch.other_items
    )
    delta = batch.candidate_logprobs[..., 0] - reference[:, None]
    columns = {
        "format": format_reward(valid),
        "exact_match": exact_match_reward(batch.tokens[..., -levels:], target_tokens),
        "similarity": similarity_reward(share),
        "likelihood": likelihood_reward(delta, levels, config.likelihood),
        "ranking": ranking_reward(
            target_rank(batch.candidate_logprobs), batch.candidate_logprobs.shape[-1] - 1
        ),
    }
    total = sum(getattr(config.rewards, name) * column for name, column in columns.items())
    return RewardBreakdown(
        **columns, total=np.asarray(total, dtype=np.float32), raw_likelihood=delta.astype(np.float32)
    )


def reward_report(rewards: RewardBreakdown, config: RlConfig) -> dict[str, float]:
    """Every term with its mean, its spread within groups, and its share of the advantage."""
    columns = {name: getattr(rewards, name) for name in REWARDS}
    weighted = {name: getattr(config.rewards, name) * column for name, column in columns.items()}
    shares = advantage_shares(weighted, rewards.total)
    report = {"reward/total": float(rewards.total.mean()), "spread/total": _spread(rewards.total)}
    for name, column in columns.items():
        report[f"reward/{name}"] = float(column.mean())
        report[f"spread/{name}"] = _spread(column)
        report[f"share/{name}"] = shares[name]
    return report | {"raw_likelihood": float(rewards.raw_likelihood.mean())}


def _spread(column: np.ndarray) -> float:
    return float(np.sqrt(column.var(axis=1).mean()))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
