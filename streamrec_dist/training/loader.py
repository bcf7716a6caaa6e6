"""Batches on their way to a learner: to its device, and made while it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Key = TypeVar("Key")
Made = TypeVar("Made")


def to_device(device: torch.device, *arrays: np.ndarray) -> list[Tensor]:
    """Arrays as tensors there. To a GPU they are copied while it computes, which takes page-locked memory."""
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    if device.type == "cuda":
        tensors = [tensor.pin_memory() for tensor in tensors]
    return [tensor.to(device, non_blocking=True) for tensor in tensors]


def prefetched(make: Callable[[Key], Made], keys: Iterable[Key]) -> Iterator[Made]:
    """`make(key)` for each key in turn, the next one being made in a thread while the caller has the last."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        ahead = None
        for key in keys:
            following = thread.submit(make, key)
            if ahead is not None:
                yield ahead.result()
            ahead = following
        if ahead is not None:
            yield ahead.result()
