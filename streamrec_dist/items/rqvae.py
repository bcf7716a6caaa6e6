"""RQ-VAE: an item vector is encoded, residually quantised, and decoded again (eq. 5-8)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from streamrec_dist.errors import DataError, RunError
from streamrec_dist.items.tokenizer import ItemTokenizer, TokenizerOptions

# k-means of this many latents places the codewords as well as all of a larger catalogue would.
_KMEANS_SAMPLE = 2**14
_ALIGNMENT_TEMPERATURE = 0.1


class RQVAE(ItemTokenizer):
    """An ItemTokenizer whose encoder and decoder are MLPs."""

    def __init__(self, dim: int, options: TokenizerOptions) -> None:
        widths = [dim, *options.hidden, options.latent]
        super().__init__(dim, options, _mlp(widths), _mlp(widths[::-1]))


class RqvaeLoss(nn.Module):
    """recon + quant (eq. 5), and the contrast of what was quantised with the items' behaviour.

    The contrast draws an item's sum of codewords, through a linear map, to its own behaviour vector and away from
    those of the batch's other items (InfoNCE over cosines); items without behaviour are left out.
    """

    def __init__(self, model: RQVAE, options: TokenizerOptions, behaviour_dim: int) -> None:
        super().__init__()
        self.model = model
        self.weight = options.alignment
        self.map = nn.Linear(options.latent, behaviour_dim) if self.weight > 0 else None

    def forward(self, vectors: Tensor, behaviour: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors [n, dim] and behaviour [n, b] -> loss, recon (scalars) and codes int64 [n, levels]."""
        result = self.model(vectors)
        loss = result.recon + result.quant
        if self.map is not None and behaviour is not None:
            known = behaviour.norm(dim=1) > 0
            cosines = F.normalize(self.map(result.quantised), dim=1) @ F.normalize(behaviour, dim=1).T
            own = torch.arange(len(vectors), device=vectors.device)
            contrast = F.cross_entropy(cosines / _ALIGNMENT_TEMPERATURE, own, reduction="none")
            loss = loss + self.weight * (contrast * known).sum() / known.sum().clamp_min(1)
        return loss, result.recon, result.codes


def train_rqvae(
    vectors: np.ndarray | Tensor,
    options: TokenizerOptions,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    behaviour: np.ndarray | Tensor | None = None,
) -> RQVAE:
    """An RQ-VAE trained on `vectors` [n, dim], on the device they are on.

    Within a process group every rank takes its share of each batch, and all end with the same model. `behaviour`
    [n, b] is what `options.alignment` contrasts with. Equal seeds give equal models on one device. `on_epoch` gets
    {"epoch" (1-based), "epochs", "loss", "recon", "used_codes" (a list, one count a level)}. Raises DataError on
    no items, RunError when the loss is not finite.
    """
    data = torch.as_tensor(vectors, dtype=torch.float32)
    if len(data) == 0:
        raise DataError("the catalogue is empty: there is no item to make semantic ids for")
    training = _Training(data, options, behaviour)
    for epoch in range(1, options.epochs + 1):
        loss, recon, usage = training.epoch()
        if not np.isfinite(loss):
            raise RunError(f"RQ-VAE: the loss is {loss} in epoch {epoch}; use a smaller stages.tokenize.lr")
        if on_epoch is not None:
            used = (usage > 0).sum(1).tolist()
            on_epoch(
                {"epoch": epoch, "epochs": options.epochs, "loss": loss, "recon": recon, "used_codes": used}
            )
        # The last tenth of the training settles what the restarts stirred up.
        if epoch <= 0.9 * options.epochs:
            training.restart_dead_codes(usage)
    return training.model.eval()


class _Training:
    """The state of one training: model, loss, optimiser, random order."""

    def __init__(
        self, data: Tensor, options: TokenizerOptions, behaviour: np.ndarray | Tensor | None
    ) -> None:
        self.data, self.options = data, options
        self.behaviour = None if behaviour is None else torch.as_tensor(behaviour).to(data)
        self.ranks = dist.get_world_size() if dist.is_initialized() else 1
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.generator = torch.Generator().manual_seed(options.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.model = RQVAE(data.shape[1], options).to(data.device)
            behaviour_dim = 0 if self.behaviour is None else self.behaviour.shape[1]
            loss = RqvaeLoss(self.model, options, behaviour_dim).to(data.device)
        self.model.fit_scale(data)
        with torch.no_grad():
            self.model.quantizer.place_codewords(self.model.latents(self._sample()), self.generator)
        # DDP hands rank 0's weights to all: k-means may round differently on another device.
        self.loss = DistributedDataParallel(loss, broadcast_buffers=False) if self.ranks > 1 else loss
        self.optimizer = torch.optim.AdamW(loss.parameters(), lr=options.lr, weight_decay=0.0)
        # The schedule divides by the lengths of its rise and of its fall, less one step, which must not be zero.
        steps = max(options.epochs * -(-len(data) // options.batch), 3)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, options.lr, total_steps=steps, pct_start=max(0.1, 2 / steps)
        )

    def epoch(self) -> tuple[float, float, Tensor]:
        """One pass in random order: mean loss, mean recon, and how often each code was used [levels, codes]."""
        data, options = self.data, self.options
        usage = torch.zeros(options.quantised_levels, options.codes, dtype=torch.float32, device=data.device)
        totals = torch.zeros(2, device=data.device)
        order = torch.randperm(len(data), generator=self.generator).to(data.device)
        for rows in order.split(options.batch):
            mine, weight = self._share(rows)
            behaviour = None if self.behaviour is None else self.behaviour[mine]
            loss, recon, codes = self.loss(data[mine], behaviour)
            self.optimizer.zero_grad(set_to_none=True)
            (loss * weight).backward()
            self.optimizer.step()
            self.schedule.step()
            share = weight * len(rows) / len(data) / self.ranks
            totals += torch.stack([loss.detach(), recon.detach()]) * share
            for level, column in enumerate(codes.T):
                usage[level] += torch.bincount(column, minlength=options.codes)
        for tensor in (totals, usage) if self.ranks > 1 else ():
            dist.all_reduce(tensor)
        mean_loss, mean_recon = totals.tolist()
        return mean_loss, mean_recon, usage.cpu()

    def restart_dead_codes(self, usage: Tensor) -> None:
        with torch.no_grad():
            quantizer = self.model.quantizer
            quantizer.restart_dead_codes(usage, self.model.latents(self._sample()), self.generator)
            if self.ranks > 1:
                dist.broadcast(quantizer.codebooks, 0)

    def _share(self, rows: Tensor) -> tuple[Tensor, float]:
        """This rank's rows of a batch, and the weight that makes DDP's mean over ranks the mean over rows."""
        if len(rows) < self.ranks:
            return rows, 1.0
        mine = rows[self.rank :: self.ranks]
        return mine, len(mine) * self.ranks / len(rows)

    def _sample(self) -> Tensor:
        rows = torch.randperm(len(self.data), generator=self.generator)[:_KMEANS_SAMPLE]
        return self.data[rows.to(self.data.device)]


def _mlp(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
