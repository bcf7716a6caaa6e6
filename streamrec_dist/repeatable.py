"""Bitwise repeatability (`deterministic: true`): the same run on the same machine gives the same bits."""

from __future__ import annotations

import os

import torch
from torch import Tensor

#: Running sums of weights of at most 1 are taken in units of 2^-32.
_UNIT = 2.0**32


def compute_repeatably() -> None:
    """Let torch choose kernels only that give equal bits for equal inputs, in this process from now on.

    On GPUs it has to come before CUDA starts, which is when cuBLAS reads its setting. An operation that has no such
    kernel raises RuntimeError. Results still depend on the number of threads and on how rows are batched.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # What is allocated empty is written before it is read; filling it as well would cost a pass over memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def cumulated(weights: Tensor) -> Tensor:
    """Running sums along the last dimension of float32 weights in [0, 1], for sampling.

    CUDA adds floats in any order, and torch refuses that where results must repeat. Integers have one sum.
    """
    if not torch.are_deterministic_algorithms_enabled():
        sums = weights.cumsum(dim=-1)
        # Summed in parallel they may fall by a rounding, which would give an entry of weight 0 a share.
        return sums.cummax(dim=-1).values if sums.device.type == "cuda" else sums
    return (weights.double().mul_(_UNIT).long().cumsum(dim=-1).double() / _UNIT).float()
