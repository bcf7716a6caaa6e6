"""What the machine's arithmetic is good at."""

from __future__ import annotations

import torch

from streamrec_dist.config import Config


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def resolve_precision(config: Config, gpus: bool) -> Config:
    """Replace `precision: auto`: bf16 on GPUs and on CPUs with bf16 instructions, fp32 elsewhere.

    Without such instructions bf16 is emulated, several times slower than fp32. One place decides for the whole
    run, so that rollouts and learners round alike.
    """
    if config.model.precision != "auto":
        return config
    model = config.model.model_copy(update={"precision": "bf16" if gpus or cpu_has_bf16() else "fp32"})
    return config.model_copy(update={"model": model})
