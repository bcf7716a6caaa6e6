"""What turns an item's vector into codes, however it was fitted: encoder, residual codebooks, decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from streamrec_dist.errors import ConfigError
from streamrec_dist.items.quantizer import ResidualQuantizer

#: Items looked at together, which bounds the distances held at once to this many times the codes.
BLOCK = 2**15
METHODS = ("rqvae", "kmeans")


@dataclass(frozen=True)
class TokenizerOptions:
    """How semantic ids are made; raises ConfigError on a value out of range.

    `levels` counts all codes of an id. With collisions "digit" the last one is a de-duplication digit, so the
    vectors are quantised levels - 1 times; with "sinkhorn" they are quantised `levels` times. `balance` is the
    entropy of Sinkhorn balancing in training (0: none), `alignment` the weight of the contrast with behaviour.
    """

    method: Literal["rqvae", "kmeans"] = "rqvae"
    levels: int = 4
    codes: int = 256
    distance: Literal["l2", "cosine"] = "l2"
    balance: float = 0.0
    alignment: float = 0.0
    latent: int = 32
    hidden: tuple[int, ...] = (512, 256, 128)
    epochs: int = 200
    batch: int = 256
    lr: float = 3e-3
    beta: float = 0.25
    collisions: Literal["digit", "sinkhorn"] = "digit"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (
            ("method", METHODS),
            ("distance", ("l2", "cosine")),
            ("collisions", ("digit", "sinkhorn")),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(f"items.{name}: {getattr(self, name)!r}, expected {' or '.join(choices)}")
        lowest = 2 if self.collisions == "digit" else 1
        if self.levels < lowest:
            raise ConfigError(
                f"items.levels: {self.levels}, expected at least {lowest} with {self.collisions}"
            )
        for name in ("codes", "latent", "epochs", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"items.{name}: {getattr(self, name)}, expected at least 1")

    @property
    def quantised_levels(self) -> int:
        """How many levels are quantised."""
        return self.levels - 1 if self.collisions == "digit" else self.levels


class Reconstruction(NamedTuple):
    """One pass: the losses (scalars, means over the batch) and codes int64 [n, levels]."""

    recon: Tensor
    quant: Tensor
    codes: Tensor
    quantised: Tensor  # [n, latent], sum of codewords with a straight-through gradient


class ItemTokenizer(nn.Module):
    """Encoder, residual quantiser, decoder; encoder and decoder are the identity unless given.

    Vectors are centred and scaled to unit mean squared norm first (`fit_scale`), so that the reconstruction loss
    is the share of their variance that the codes lose.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        dim: int,
        options: TokenizerOptions,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder or nn.Identity()
        self.decoder = decoder or nn.Identity()
        self.quantizer = ResidualQuantizer(
            options.quantised_levels,
            options.codes,
            options.latent if encoder else dim,
            options.beta,
            options.distance,
            options.balance,
        )
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))

    def fit_scale(self, vectors: Tensor) -> None:
        """Set centre and scale from `vectors` [n, dim]."""
        self.shift.copy_(vectors.mean(0))
        spread = (vectors - self.shift).pow(2).sum(1).mean().sqrt()
        # Equal vectors have no spread; they stay at the origin.
        self.scale.copy_(torch.where(spread > 1e-6, spread, 1.0))

    def latents(self, vectors: Tensor) -> Tensor:
        """What is quantised, z = E(x): [n, latent] of `vectors` [n, dim]."""
        return self.encoder((vectors - self.shift) / self.scale)

    def forward(self, vectors: Tensor) -> Reconstruction:
        """Losses and codes of `vectors` [n, dim]; the RQ-VAE trains on recon + quant (eq. 5)."""
        target = (vectors - self.shift) / self.scale
        quantised, quant, codes = self.quantizer(self.encoder(target))
        recon = (self.decoder(quantised) - target).pow(2).sum(1).mean()
        return Reconstruction(recon, quant, codes, quantised)

    @torch.no_grad()
    def encode(self, vectors: Tensor) -> Tensor:
        """Codes int64 [n, levels] of `vectors` [n, dim]."""
        return torch.cat([self.quantizer(self.latents(block))[2] for block in vectors.split(BLOCK)])

    @torch.no_grad()
    def lost_variance(self, vectors: Tensor) -> float:
        """Share of the variance of `vectors` [n, dim] that their codes lose."""
        lost = sum(float(self(block).recon) * len(block) for block in vectors.split(BLOCK))
        return lost / len(vectors)
