"""Weights as they travel and as they are stored: named numpy arrays, or one flat vector."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from streamrec_dist.errors import DataError
from streamrec_dist.tokens import FIRST_CODE

#: The tied token table.
TABLE = "embed.weight"


def policy_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters a policy needs, in a fixed order: all but the direct decoder, which stays frozen."""
    return [(name, value) for name, value in model.named_parameters() if not name.startswith("direct.")]


def flat(model: nn.Module, policy_only: bool = True) -> Tensor:
    """The policy's parameters, or all of them, as one contiguous float32 vector: a copy, on the model's device."""
    parameters = policy_parameters(model) if policy_only else list(model.named_parameters())
    with torch.no_grad():
        return torch.cat([value.detach().reshape(-1) for _, value in parameters]).float()


def flatten(model: nn.Module, policy_only: bool = True) -> np.ndarray:
    """What `flat` gives, as numpy, which is how it goes into an object store."""
    return flat(model, policy_only).cpu().numpy()


def load_vector(model: nn.Module, vector: np.ndarray | Tensor) -> None:
    """Copy a flat vector, of the policy or of everything, into a model. Raises DataError for another size."""
    policy, everything = policy_parameters(model), list(model.named_parameters())
    sizes = [sum(value.numel() for _, value in parameters) for parameters in (policy, everything)]
    if tuple(vector.shape) not in ((sizes[0],), (sizes[1],)):
        raise DataError(
            f"weights of {vector.shape[0]:,} numbers given to a model of {sizes[1]:,} ({sizes[0]:,} in its policy); "
            "give the items and model sections the values they were trained with"
        )
    chosen = [value for _, value in (policy if vector.shape[0] == sizes[0] else everything)]
    source = vector if isinstance(vector, Tensor) else readable(vector)
    with torch.no_grad():
        # Moved to the device in one piece: every copy from the host waits for the device.
        parts = source.to(chosen[0].device).split([value.numel() for value in chosen])
        for value, part in zip(chosen, parts, strict=True):
            value.copy_(part.view_as(value))


def readable(vector: np.ndarray) -> Tensor:
    """A tensor over the memory of an array that may be read-only, as those from shared memory are: only to read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(vector)


def export_weights(model: nn.Module) -> dict[str, np.ndarray]:
    """All parameters by name, float32, on the CPU; copies."""
    return {name: value.detach().float().cpu().numpy().copy() for name, value in model.named_parameters()}


def import_weights(model: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Set every parameter by name. Raises DataError naming the first that is missing, extra or misshapen."""
    check_shapes(model, {name: tuple(array.shape) for name, array in weights.items()})
    for name, array in weights.items():
        if array.dtype.kind != "f":
            raise DataError(f"{name} holds {array.dtype}, weights are floats; train the stage again")
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(torch.tensor(weights[name]))


def check_shapes(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise DataError unless `shapes` of weights, by name, are those of the model's parameters."""
    needed = {name: tuple(value.shape) for name, value in model.named_parameters()}
    for name in [name for name in needed if name in shapes and shapes[name] != needed[name]]:
        what = f"{name} has shape {shapes[name]}, this model needs {needed[name]}"
        if name == TABLE and len(shapes[name]) == 2 and shapes[name][0] != needed[name][0]:
            raise DataError(
                f"{what}, a row a token: {shapes[name][0] - FIRST_CODE} codes in all, not "
                f"{needed[name][0] - FIRST_CODE}; give items.levels and items.codes the values these weights were "
                "trained with, or train again on the ids there are now"
            )
        raise DataError(f"{what}; give the model section the values these weights were trained with")
    for name in sorted(needed.keys() ^ shapes.keys()):
        side = "missing from the weights" if name in needed else "not part of this model"
        raise DataError(f"{name} is {side}; was the checkpoint made with another model or items section?")
