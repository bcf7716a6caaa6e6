"""The residual quantiser of the RQ-VAE: m codebooks, each coding what the ones before left over."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamrec_dist.items.kmeans import kmeans, squared_distances


class ResidualQuantizer(nn.Module):
    """Codebooks [levels, codes, latent] and residual quantisation with them (section 2.2.1)."""

    def __init__(self, levels: int, codes: int, latent: int, beta: float) -> None:
        super().__init__()
        self.codebooks = nn.Parameter(torch.zeros(levels, codes, latent))
        self.beta = beta

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise `latent` [n, dim]: (sum of codewords [n, dim], loss of eq. 6, codes int64 [n, levels]).

        The gradient passes from the first output to `latent` as if nothing had been quantised (straight-through).
        """
        residual = latent
        loss = latent.new_zeros(())
        codes = []
        for codebook in self.codebooks:
            code = squared_distances(residual.detach(), codebook.detach()).argmin(1)
            codeword = nn.functional.embedding(code, codebook)
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
    def place_codewords(self, latent: Tensor, generator: torch.Generator) -> None:
        """Set every codebook to the k-means centroids of the residuals of `latent` [n, dim] at its level."""
        residual = latent
        for codebook in self.codebooks:
            codebook.copy_(kmeans(residual, len(codebook), generator))
            residual = residual - codebook[squared_distances(residual, codebook).argmin(1)]

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
            nearest = codebook[squared_distances(residual, codebook).argmin(1)]
            codebook[dead] = residual[picks]
            residual = residual - nearest
        return int((usage == 0).sum())
