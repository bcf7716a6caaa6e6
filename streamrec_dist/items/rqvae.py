"""RQ-VAE: a text embedding is encoded, residually quantised, and decoded again (eq. 5-8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from streamrec_dist.errors import ConfigError, DataError, RunError
from streamrec_dist.items.quantizer import ResidualQuantizer

# k-means of this many latents places the codewords as well as all of a larger catalogue would.
_KMEANS_SAMPLE = 2**14


@dataclass(frozen=True)
class TokenizerOptions:
    """How semantic ids are made; raises ConfigError on a value out of range.

    `levels` counts all codes of an id. With collisions "digit" the last one is a de-duplication digit, so the
    RQ-VAE quantises levels - 1 times; with "sinkhorn" it quantises `levels` times.
    """

    levels: int = 4
    codes: int = 256
    latent: int = 32
    hidden: tuple[int, ...] = (512, 256, 128)
    epochs: int = 200
    batch: int = 256
    lr: float = 3e-3
    beta: float = 0.25
    collisions: Literal["digit", "sinkhorn"] = "digit"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.collisions not in ("digit", "sinkhorn"):
            raise ConfigError(f"items.collisions: {self.collisions!r}, expected digit or sinkhorn")
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
        """How many levels the RQ-VAE itself quantises."""
        return self.levels - 1 if self.collisions == "digit" else self.levels


class Reconstruction(NamedTuple):
    """One pass of the RQ-VAE: both losses (scalars, means over the batch) and codes int64 [n, levels]."""

    recon: Tensor
    quant: Tensor
    codes: Tensor


class RQVAE(nn.Module):
    """MLP encoder, residual quantiser, MLP decoder.

    Embeddings are centred and scaled to unit mean squared norm first (`fit_scale`), so that the reconstruction
    loss is the share of the embeddings' variance that the codes lose.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, dim: int, options: TokenizerOptions) -> None:
        super().__init__()
        widths = [dim, *options.hidden, options.latent]
        self.encoder = _mlp(widths)
        self.decoder = _mlp(widths[::-1])
        self.quantizer = ResidualQuantizer(
            options.quantised_levels, options.codes, options.latent, options.beta
        )
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))

    def fit_scale(self, embeddings: Tensor) -> None:
        """Set centre and scale from `embeddings` [n, dim]."""
        self.shift.copy_(embeddings.mean(0))
        spread = (embeddings - self.shift).pow(2).sum(1).mean().sqrt()
        # Equal embeddings have no spread; they stay at the origin.
        self.scale.copy_(torch.where(spread > 1e-6, spread, 1.0))

    def latents(self, embeddings: Tensor) -> Tensor:
        """What is quantised, z = E(x): [n, latent] of `embeddings` [n, dim]."""
        return self.encoder((embeddings - self.shift) / self.scale)

    def forward(self, embeddings: Tensor) -> Reconstruction:
        """Losses and codes of `embeddings` [n, dim]; the training loss is recon + quant (eq. 5)."""
        target = (embeddings - self.shift) / self.scale
        quantised, quant, codes = self.quantizer(self.encoder(target))
        recon = (self.decoder(quantised) - target).pow(2).sum(1).mean()
        return Reconstruction(recon, quant, codes)

    @torch.no_grad()
    def encode(self, embeddings: Tensor) -> Tensor:
        """Codes int64 [n, levels] of `embeddings` [n, dim]."""
        return self.quantizer(self.latents(embeddings))[2]


def train_rqvae(
    embeddings: np.ndarray | Tensor,
    options: TokenizerOptions,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> RQVAE:
    """An RQ-VAE trained on `embeddings` [n, dim], on the device they are on.

    Equal seeds give equal models on one device. `on_epoch` gets {"epoch" (1-based), "epochs", "loss", "recon",
    "used_codes" (a list, one count a level)}. Raises DataError on no items, RunError when the loss is not finite.
    """
    data = torch.as_tensor(embeddings, dtype=torch.float32)
    if len(data) == 0:
        raise DataError("the catalogue is empty: there is no item to make semantic ids for")
    generator = torch.Generator().manual_seed(options.seed)
    model = _new_model(data, options, generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=0.0)
    batches = -(-len(data) // options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.lr, total_steps=options.epochs * batches, pct_start=0.1
    )
    for epoch in range(1, options.epochs + 1):
        loss, recon, usage = _train_epoch(model, data, options, optimizer, schedule, generator)
        if not np.isfinite(loss):
            raise RunError(f"RQ-VAE: the loss is {loss} in epoch {epoch}; use a smaller stages.tokenize.lr")
        if on_epoch is not None:
            used = (usage > 0).sum(1).tolist()
            on_epoch(
                {"epoch": epoch, "epochs": options.epochs, "loss": loss, "recon": recon, "used_codes": used}
            )
        # The last tenth of the training settles what the restarts stirred up.
        if epoch <= 0.9 * options.epochs:
            with torch.no_grad():
                sample = _sample(data, generator)
                model.quantizer.restart_dead_codes(usage, model.latents(sample), generator)
    return model.eval()


def _new_model(data: Tensor, options: TokenizerOptions, generator: torch.Generator) -> RQVAE:
    """A model whose weights follow from the seed and whose codewords are k-means centroids of its first latents."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = RQVAE(data.shape[1], options).to(data.device)
    model.fit_scale(data)
    with torch.no_grad():
        model.quantizer.place_codewords(model.latents(_sample(data, generator)), generator)
    return model


def _train_epoch(
    model: RQVAE,
    data: Tensor,
    options: TokenizerOptions,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    generator: torch.Generator,
) -> tuple[float, float, Tensor]:
    """One pass over `data` in random order: mean loss, mean recon, and how often each code was used."""
    usage = torch.zeros(options.quantised_levels, options.codes, dtype=torch.long)
    totals = torch.zeros(2, device=data.device)
    order = torch.randperm(len(data), generator=generator).to(data.device)
    for rows in order.split(options.batch):
        result = model(data[rows])
        loss = result.recon + result.quant
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        totals += torch.stack([loss.detach(), result.recon.detach()]) * len(rows) / len(data)
        for level, codes in enumerate(result.codes.cpu().T):
            usage[level] += torch.bincount(codes, minlength=options.codes)
    mean_loss, mean_recon = totals.tolist()
    return mean_loss, mean_recon, usage


def _sample(data: Tensor, generator: torch.Generator) -> Tensor:
    rows = torch.randperm(len(data), generator=generator)[:_KMEANS_SAMPLE]
    return data[rows.to(data.device)]


def _mlp(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
