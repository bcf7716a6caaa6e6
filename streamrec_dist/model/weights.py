"""Weights as they travel and as they are stored: named numpy arrays, or one flat vector."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from streamrec_dist.errors import DataError


def policy_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters a policy needs, in a fixed order: all but the direct decoder, which stays frozen."""
    return [(name, value) for name, value in model.named_parameters() if not name.startswith("direct.")]


def flatten(model: nn.Module, policy_only: bool = True) -> np.ndarray:
    """The policy's parameters, or all of them, as one contiguous float32 vector."""
    parameters = policy_parameters(model) if policy_only else list(model.named_parameters())
    with torch.no_grad():
        return torch.cat([value.detach().reshape(-1) for _, value in parameters]).float().cpu().numpy()


def load_vector(model: nn.Module, vector: np.ndarray) -> None:
    """Copy a flat vector, of the policy or of everything, into a model. Raises DataError for another size."""
    policy, everything = policy_parameters(model), list(model.named_parameters())
    sizes = [sum(value.numel() for _, value in parameters) for parameters in (policy, everything)]
    if vector.shape not in ((sizes[0],), (sizes[1],)):
        raise DataError(
            f"weights of {vector.size:,} numbers given to a model of {sizes[1]:,} ({sizes[0]:,} in its policy)"
        )
    # A vector from shared memory is read-only, and torch warns of that though it is only read here.
    source = torch.from_numpy(vector if vector.flags.writeable else vector.copy())
    with torch.no_grad():
        start = 0
        for _, value in policy if vector.size == sizes[0] else everything:
            value.copy_(source[start : start + value.numel()].view_as(value))
            start += value.numel()


def export_weights(model: nn.Module) -> dict[str, np.ndarray]:
    """All parameters by name, float32, on the CPU; copies."""
    return {name: value.detach().float().cpu().numpy().copy() for name, value in model.named_parameters()}


def import_weights(model: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Set every parameter by name. Raises DataError naming the first that is missing, extra or misshapen."""
    parameters = dict(model.named_parameters())
    for name in parameters.keys() ^ weights.keys():
        side = "missing from the weights" if name in parameters else "not part of this model"
        raise DataError(f"{name} is {side}; was the checkpoint made with another model or items section?")
    with torch.no_grad():
        for name, value in parameters.items():
            array = weights[name]
            if tuple(array.shape) != tuple(value.shape):
                raise DataError(
                    f"{name} has shape {tuple(array.shape)}, this model needs {tuple(value.shape)}"
                )
            value.copy_(torch.tensor(array))
