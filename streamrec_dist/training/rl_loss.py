"""Stage 3: the loss of one batch of scored groups (eq. 20)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from streamrec_dist.config import RlConfig
from streamrec_dist.decode.policy import sequence_log_probs
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.model.backbone import StreamRec, shift_right
from streamrec_dist.rl.objective import clipped_surrogate, k3_divergence


@dataclass(frozen=True)
class RlBatch:
    """Groups that one rank trains on; a padding group has weight 0."""

    history: Tensor  # int64 [P, S]
    places: Tensor  # int64 [P, K]  the evidence (model/evidence.py)
    below: Tensor  # float64 [P, K + 1]
    tokens: Tensor  # int64 [P, G, l + m]
    behaviour: Tensor  # float32 [P, G, l + m]
    reference: Tensor  # float32 [P, G, l + m], log-probs of the frozen SFT checkpoint
    advantages: Tensor  # float32 [P, G]
    weight: Tensor  # float32 [P]
    fresh: Tensor  # float32 [P], the mean over the step's groups sampled by the version being trained, as weights
    has_fresh: bool  # whether the step has any


class RlLoss(nn.Module):
    """Minus the GRPO objective, averaged over the batch's groups on all ranks."""

    def __init__(self, model: StreamRec, config: RlConfig, catalogue: Catalogue):
        super().__init__()
        self.model = model
        self.config = config
        self.catalogue = catalogue

    def forward(self, batch: RlBatch, global_groups: int, ranks: int) -> tuple[Tensor, dict[str, Tensor]]:
        """`global_groups` is the number of groups with weight on all `ranks`; DDP averages over the ranks."""
        config = self.config
        prompts = batch.history, batch.places, batch.below
        logprobs = rollout_log_probs(self.model, prompts, batch.tokens, config, self.catalogue)
        surrogate, ratio, clips = clipped_surrogate(
            logprobs, batch.behaviour, batch.advantages, config.clip, config.ratio, config.objective
        )
        divergence = k3_divergence(logprobs, batch.reference)
        each = (config.kl * divergence.mean(dim=-1) - surrogate).mean(dim=-1)
        loss = (each * batch.weight).sum() * ranks / global_groups
        # Scaled so that the plain mean over the ranks is the mean over all groups.
        weight = (batch.weight * ranks / global_groups)[:, None, None]
        metrics = {
            "kl": (divergence.mean(dim=(1, 2)) * weight[:, 0, 0]).sum(),
            "ratio": (ratio.mean(dim=(1, 2)) * weight[:, 0, 0]).sum(),
            "clip_share": (clips.mean(dim=(1, 2)) * weight[:, 0, 0]).sum(),
            "entropy": (-(logprobs.mean(dim=(1, 2))) * weight[:, 0, 0]).sum(),
        }
        if batch.has_fresh:
            # Of rollouts that these very weights have sampled: both are 0 but for rounding.
            gap = (logprobs - batch.behaviour).detach()
            metrics["policy_gap"] = (gap.abs().mean(dim=(1, 2)) * batch.fresh).sum()
            apart = k3_divergence(logprobs.detach(), batch.behaviour)
            metrics["ppo_kl_at_equal_version"] = (apart.mean(dim=(1, 2)) * batch.fresh).sum()
        return loss, metrics


def rollout_log_probs(
    model: StreamRec, prompts: Sequence[Tensor], tokens: Tensor, config: RlConfig, catalogue: Catalogue
) -> Tensor:
    """Teacher-forced log-probs [P, G, l + m] of rollouts, under the mask and temperature that sampled.

    `prompts` are history tokens int64 [P, S] and their evidence, places and below.
    """
    history, places, below = prompts
    hidden, _ = model.decode(shift_right(tokens), model.read(history))
    guide = model.guide(catalogue, places, below)
    constrained = catalogue if config.sampling == "trie" else None
    return sequence_log_probs(model, hidden, tokens, config.temperature, constrained, guide)
