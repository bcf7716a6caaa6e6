"""What the machine's arithmetic is good at."""

from __future__ import annotations

import torch

from streamrec_dist.config import Config


def resolve_precision(config: Config, gpus: bool) -> Config:
    """Replace `precision: auto`: bf16 on GPUs and on CPUs with bf16 instructions, fp32 elsewhere.

    Without such instructions bf16 is emulated, several times slower than fp32. One place decides for the whole
    run, so that rollouts and learners round alike.
    """
    if config.model.precision != "auto":
        return config
    native = gpus or any(
        torch.backends.cpu.get_cpu_capability() and probe()
        for probe in (torch.cpu._is_avx512_bf16_supported, torch.cpu._is_amx_tile_supported)
    )
    model = config.model.model_copy(update={"precision": "bf16" if native else "fp32"})
    return config.model_copy(update={"model": model})
