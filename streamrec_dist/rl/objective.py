"""The GRPO objective (eq. 20), as functions of log-probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

PROX_CAP = 2.0


def policy_ratio(logprobs: Tensor, behaviour: Tensor, per: str) -> Tensor:
    """pi_theta / pi_behaviour: [..., T] a token, or [..., 1] a sequence, from log-probs [..., T]."""
    difference = logprobs - behaviour
    if per == "sequence":
        difference = difference.sum(dim=-1, keepdim=True)
    return difference.exp()


def clipped_surrogate(
    logprobs: Tensor, behaviour: Tensor, advantages: Tensor, clip: float, per: str, objective: str
) -> tuple[Tensor, Tensor, Tensor]:
    """min(r A, clip(r, 1 - eps, 1 + eps) A) of each sequence [..., ]: surrogate, ratio, and where it clips.

    log-probs and behaviour [..., T], advantages [...]. r = pi_theta / pi_behaviour is the whole off-policy
    correction. `decoupled` clips around pi_prox, the learner before its first step on the batch, and weighs by
    min(pi_prox / pi_behaviour, 2); with one step a batch pi_prox is pi_theta with no gradient.
    """
    advantages = advantages.unsqueeze(-1)
    if objective == "decoupled":
        proximal = logprobs.detach()
        weight = policy_ratio(proximal, behaviour, per).clamp(max=PROX_CAP)
        ratio = policy_ratio(logprobs, proximal, per)
    else:
        weight = torch.ones((), device=logprobs.device)
        ratio = policy_ratio(logprobs, behaviour, per)
    clipped = ratio.clamp(1 - clip, 1 + clip)
    surrogate = weight * torch.minimum(ratio * advantages, clipped * advantages)
    clips = clipped * advantages < ratio * advantages
    return surrogate.mean(dim=-1), ratio, clips.float()


def k3_divergence(logprobs: Tensor, reference: Tensor) -> Tensor:
    """The k3 estimate of KL(pi_theta || pi_ref) at each token: exp(x) - x - 1, x = log pi_ref - log pi_theta."""
    difference = reference - logprobs
    return difference.exp() - difference - 1
