"""The residual quantiser of the RQ-VAE: m codebooks, each coding what the ones before left over."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamrec_dist.items.kmeans import kmeans, squared_distances
from streamrec_dist.items.sinkhorn import balanced_codes


class ResidualQuantizer(nn.Module):
    """Codebooks [levels, codes, latent] and residual quantisation with them (section 2.2.1).

    `distance` decides which codeword is nearest: squared Euclidean (l2), or one less the cosine. With `balance`
    above 0 a training batch uses all codes alike (`sinkhorn.balanced_codes`); afterwards the nearest one counts.
    """

    def __init__(
        self,
        levels: int,
        codes: int,
        latent: int,
        beta: float,
        distance: str = "l2",
        balance: float = 0.0,
    ) -> None:
        super().__init__()
        self.codebooks = nn.Parameter(torch.zeros(levels, codes, latent))
        self.beta, self.distance, self.balance = beta, distance, balance

    def distances(self, residual: Tensor, codebook: Tensor) -> Tensor:
        """Distances [n, codes] of residuals [n, latent] to the codewords of one level."""
        if self.distance == "cosine":
            residual, codebook = F.normalize(residual, dim=-1), F.normalize(codebook, dim=-1)
        return squared_distances(residual, codebook)

    def _codes(self, residual: Tensor, codebook: Tensor) -> Tensor:
        distances = self.distances(residual, codebook)
        if self.training and self.balance > 0:
            return balanced_codes(distances, self.balance)
        return distances.argmin(1)

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise `latent` [n, dim]: (sum of codewords [n, dim], loss of eq. 6, codes int64 [n, levels]).

        The gradient passes from the first output to `latent` as if nothing had been quantised (straight-through).
        """
        residual = latent
        loss = latent.new_zeros(())
        codes = []
        for codebook in self.codebooks:
            code = self._codes(residual.detach(), codebook.detach())
            codeword = F.embedding(code, codebook)
            loss = loss + (residual.detach() - codeword).pow(2).sum(1).mean()
            loss = loss + self.beta * (residual - codeword.detach()).pow(2).sum(1).mean()
            residual = residual - codeword.detach()
            codes.append(code)
        # What is left of the residual is exactly latent - sum of codewords.
        return latent - residual.detach(), loss, torch.stack(codes, dim=1)

    def residual_before(self, latent: Tensor, codes: Tensor) -> Tensor:
        """What `latent` [n, dim] still holds after the codewords of `codes` [n, j]: h_{j+1}, [n, dim]."""
        residual = latent
        for level in range(codes.shape[1]):
            residual = residual - self.codebooks[level, codes[:, level]]
        return residual

    @torch.no_grad()
    def place_codewords(self, latent: Tensor, generator: torch.Generator, iterations: int = 10) -> None:
        """Set every codebook to the k-means centroids of the residuals of `latent` [n, dim] at its level."""
        residual = latent
        for codebook in self.codebooks:
            codebook.copy_(kmeans(residual, len(codebook), generator, iterations, self.balance))
            residual = residual - codebook[self.distances(residual, codebook).argmin(1)]

    @torch.no_grad()
    def restart_dead_codes(self, usage: Tensor, latent: Tensor, generator: torch.Generator) -> int:
        """Move every codeword with zero `usage` [levels, codes] onto a random residual of `latent` [n, dim].

        Returns how many were moved.
        """
        residual = latent
        for level, codebook in enumerate(self.codebooks):
            dead = (usage[level] == 0).nonzero().flatten()
            picks = torch.randint(len(latent), (len(dead),), generator=generator).to(latent.device)
            # The codes of the others are read first: a moved codeword must not change this level's residuals.
            nearest = codebook[self.distances(residual, codebook).argmin(1)]
            codebook[dead] = residual[picks]
            residual = residual - nearest
        return int((usage == 0).sum())
