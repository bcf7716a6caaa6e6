"""AdamW with linear warm-up and cosine decay, and its state as named arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from streamrec_dist.errors import DataError

BETAS = (0.9, 0.999)


def learning_rate(peak: float, warmup: float, step: int, total: int) -> float:
    """The rate of optimizer step `step` (from 0) of `total`; `warmup` is the share of steps warming up."""
    warm = max(1, round(warmup * total))
    if step < warm:
        return peak * (step + 1) / warm
    progress = min((step - warm) / max(total - warm, 1), 1.0)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


class Optimiser:
    """Steps the named parameters; norms and biases are not decayed."""

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float, clip_norm: float):
        self.parameters = dict(parameters)
        self.clip_norm = clip_norm
        matrices = [value for value in self.parameters.values() if value.ndim >= 2]
        vectors = [value for value in self.parameters.values() if value.ndim < 2]
        self.adamw = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=0.0,
            betas=BETAS,
            fused=True,
        )

    def step(self, rate: float) -> Tensor:
        """Clip the gradients and step at this learning rate; returns the gradient norm before clipping, []."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.clip_norm)
        for group in self.adamw.param_groups:
            group["lr"] = rate
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return norm

    def export(self) -> dict[str, np.ndarray]:
        """Moments by parameter name, `exp_avg.NAME` and `exp_avg_sq.NAME`, and `step.NAME`."""
        arrays = {}
        for name, value in self.parameters.items():
            for key, moment in self.adamw.state.get(value, {}).items():
                arrays[f"{key}.{name}"] = moment.float().cpu().numpy().copy()
        return arrays

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Set the moments from `export`. Raises DataError where one does not fit its parameter."""
        if not any(f"step.{name}" in arrays for name in self.parameters):
            return  # exported before the first step
        for name, value in self.parameters.items():
            state = self.adamw.state[value]
            for key in ("step", "exp_avg", "exp_avg_sq"):
                array = arrays.get(f"{key}.{name}")
                shape = () if key == "step" else tuple(value.shape)
                if array is None or tuple(array.shape) != shape:
                    raise DataError(f"the checkpoint holds no {key} of shape {shape} for {name}")
                if key != "exp_avg" and (array < 0).any():
                    raise DataError(f"the checkpoint holds a negative {key} for {name}")
                state[key] = torch.tensor(array, dtype=torch.float32, device=value.device)
