"""Arrays to and from a device without waiting for it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor on `device`, without waiting for it and, on the CPU, without a copy."""
    tensor = pinned(array) if device.type == "cuda" else torch.from_numpy(array)
    return tensor.to(device, non_blocking=True)


def to_host(value: Tensor) -> np.ndarray:
    """The values of a tensor, without waiting: from CUDA they are complete once the device has been waited for."""
    if value.device.type == "cuda":
        value = torch.empty(value.shape, dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)
    return value.numpy()


def pinned(array: np.ndarray) -> Tensor:
    """A copy in memory that is never paged out: only from there can a device copy while the host goes on."""
    return torch.from_numpy(array).contiguous().pin_memory()
