"""The thinking heads of stage 2: states and residuals in d_model (section 2.3.1)."""

from __future__ import annotations

from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def unit_rms(x: Tensor) -> Tensor:
    """n(x) = x / rms(x) over the last dimension.

    Embeddings and hidden states differ in scale, and a raw sum of states grows with every step; what is
    compared is therefore compared at unit root mean square.
    """
    return F.rms_norm(x.float(), (x.shape[-1],), eps=1e-6)


class ResidualMLP(nn.Module):
    """x + W2 relu(W1 x), with W2 zero at the start: the identity until trained."""

    def __init__(self, d_model: int):
        super().__init__()
        self.wi = nn.Linear(d_model, d_model)
        self.wo = nn.Linear(d_model, d_model)
        nn.init.zeros_(self.wo.weight)
        nn.init.zeros_(self.wo.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.wo(F.relu(self.wi(x)))


class ThinkingHeads(nn.Module):
    """MLP_s and MLP_r, each shared over the thinking steps."""

    def __init__(self, d_model: int):
        super().__init__()
        self.state_mlp = ResidualMLP(d_model)
        self.residual_mlp = ResidualMLP(d_model)

    def states(self, first: Tensor, hidden: Tensor) -> Tensor:
        """s_0 .. s_l, with s_i = MLP_s(n(d_0 + .. + d_i)).

        first: d_0, mean encoder state [..., d]; hidden: d_1 .. d_l [..., l, d] -> [..., l + 1, d].
        """
        # Added one by one: CUDA's running sum of floats is not repeatable.
        summed = torch.stack(list(accumulate([first.float(), *hidden.float().unbind(-2)])), dim=-2)
        return self.state_mlp(unit_rms(summed)).float()

    def residuals(self, target: Tensor, states: Tensor) -> Tensor:
        """r_{i+1} = MLP_r(n(t) - s_i), no gradient into t; target [..., d], states [..., n, d] -> [..., n, d]."""
        return self.residual_mlp(unit_rms(target).detach().unsqueeze(-2) - states).float()


def nearest_tokens(residuals: Tensor, table: Tensor) -> Tensor:
    """Eq. 12: the code token whose embedding is nearest to each residual, both at unit rms.

    residuals [..., d], table [tokens, d] -> index int64 [...]. At equal norms the nearest is the one with
    the largest inner product, so it is one matrix product.
    """
    return torch.matmul(unit_rms(residuals), unit_rms(table).T).argmax(dim=-1)
