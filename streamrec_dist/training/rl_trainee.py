"""Stage 3 as a trainee: the policy on scored groups of rollouts, beside its frozen reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from streamrec_dist.config import RlConfig
from streamrec_dist.materials import Materials, autocast
from streamrec_dist.model.weights import export_weights, import_weights
from streamrec_dist.rl.advantage import group_advantages
from streamrec_dist.training.rl_loss import RlBatch, RlLoss, rollout_log_probs
from streamrec_dist.training.trainee import RecommenderTrainee
from streamrec_dist.transfer import to_device
from streamrec_dist.types import GroupCounts, PolicyVersion, RewardBreakdown, RolloutBatch

Shard = tuple[RolloutBatch, RewardBreakdown, np.ndarray]


class RlTrainee(RecommenderTrainee):
    """The weights that the stage starts from are also the reference of the KL term."""

    frozen = ("direct.", "heads.")

    def __init__(self, materials: Materials, device: torch.device):
        super().__init__(materials, device)
        self.reference = materials.new_model().to(device).eval()

    @property
    def config(self) -> RlConfig:
        return self.whole_config.stages.rl

    def started(self) -> nn.Module:
        import_weights(self.reference, export_weights(self.model))
        # No dropout: at equal versions the learner's log-probs must be the rollout's.
        return RlLoss(self.model, self.config, self.catalogue).eval()

    def group_parts(
        self, shards: Sequence[Shard], counts: GroupCounts, version: PolicyVersion
    ) -> list[RlBatch]:
        """Batches of this rank's groups, filled up to `counts.padded` with groups of weight 0."""
        rows = np.concatenate([batch.rows[groups] for batch, _, groups in shards])
        tokens = np.concatenate([batch.tokens[groups] for batch, _, groups in shards]).astype(np.int64)
        behaviour = np.concatenate([batch.logprobs[groups] for batch, _, groups in shards])
        advantages = np.concatenate(
            [group_advantages(rewards.total[groups], self.config.advantage) for _, rewards, groups in shards]
        )
        fresh = np.concatenate(
            [np.full(len(groups), batch.version == version) for batch, _, groups in shards]
        )
        filled = np.arange(counts.padded) % len(rows)
        weight = (np.arange(counts.padded) < counts.own).astype(np.float32)
        fresh = fresh[filled] * weight
        columns = tokens, behaviour, advantages
        chosen = self.rows[rows[filled]]
        return [
            self._group_batch(
                chosen[part],
                [column[filled[part]] for column in columns],
                weight[part],
                fresh[part],
                fresh.sum(),
            )
            for part in self.micro_batches(chosen)
        ]

    def _group_batch(
        self,
        rows: np.ndarray,
        columns: Sequence[np.ndarray],
        weight: np.ndarray,
        fresh: np.ndarray,
        all_fresh: float,
    ) -> RlBatch:
        arrays = (*self.materials.prompts(rows), *columns, weight, fresh / max(all_fresh, 1))
        history, places, below, tokens, behaviour, advantages, weight_t, fresh_t = (
            to_device(array, self.device) for array in arrays
        )
        with torch.no_grad(), autocast(self.whole_config, self.device):
            prompts = history, places, below
            reference = rollout_log_probs(self.reference, prompts, tokens, self.config, self.catalogue)
        return RlBatch(
            history,
            places,
            below,
            tokens,
            behaviour,
            reference,
            advantages,
            weight_t,
            fresh_t,
            has_fresh=all_fresh > 0,
        )
