"""Balanced assignment: points to codes so that all codes are used alike (Sinkhorn-Knopp)."""

from __future__ import annotations

from torch import Tensor

ITERATIONS = 50


def balanced_codes(distances: Tensor, entropy: float) -> Tensor:
    """The code of each point, int64 [n], from distances [n, codes]: argmax of the balanced transport plan.

    The plan minimises the mean distance less `entropy` times its entropy, with distances measured in units of their
    mean; every point sends the same mass and every code receives the same. The smaller `entropy`, the nearer to
    an assignment of equal sizes.
    """
    scaled = distances - distances.min(dim=1, keepdim=True).values
    plan = -scaled / (entropy * scaled.mean().clamp_min(1e-12))
    for _ in range(ITERATIONS):
        plan = plan - plan.logsumexp(dim=0, keepdim=True)
        plan = plan - plan.logsumexp(dim=1, keepdim=True)
    return plan.argmax(dim=1)
