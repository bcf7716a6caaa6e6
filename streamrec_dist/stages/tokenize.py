"""The tokenize stage: item texts to embeddings, text neighbours and semantic ids.

texts -> embeddings (eq. 4) -> neighbours by cosine
                            -> RQ-VAE (eq. 5-8) -> codes -> unique semantic ids -> report
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from streamrec_dist.errors import DataError, RunError
from streamrec_dist.items.encoder import check_finite
from streamrec_dist.items.neighbours import nearest_neighbours
from streamrec_dist.items.rqvae import TokenizerOptions, train_rqvae
from streamrec_dist.items.semantic_ids import assign_ids, id_report


@dataclass(frozen=True)
class Tokenized:
    """What the stage makes of n items.

    `embeddings` float32 [n, dim]; `neighbours` int32 [n, k], nearest first; `codes` int32 [n, m], unique rows;
    `report`: `id_report` with the reconstruction error (share of variance lost) and seconds by part.
    """

    embeddings: np.ndarray
    neighbours: np.ndarray
    codes: np.ndarray
    report: dict[str, Any]


def tokenize(
    texts: Sequence[str],
    embed: Callable[[Sequence[str]], np.ndarray],
    options: TokenizerOptions,
    neighbours: int,
    emit: Callable[[str, dict[str, Any]], None],
    device: str | torch.device = "cpu",
) -> Tokenized:
    """Embeddings, `neighbours` text neighbours and a semantic id for each of `texts` (empty texts included).

    `embed` maps texts to embeddings [n, dim]; the RQ-VAE trains on `device`. Emits "tokenize.progress" once an
    epoch with {"epoch", "epochs", "loss", "recon", "used_codes"}. Raises DataError for no items or an embedding
    that is not finite, RunError when `embed` returns the wrong number of rows or no unique ids can be made.
    """
    if len(texts) == 0:
        raise DataError("the catalogue is empty: there is no item to tokenize")
    clock = _Clock()
    embeddings = np.asarray(embed(texts), dtype=np.float32)
    if embeddings.ndim != 2 or len(embeddings) != len(texts):
        raise RunError(f"the encoder returned shape {list(embeddings.shape)} for {len(texts)} texts")
    check_finite(embeddings, "text embedding")
    clock.lap("embed")

    data = torch.tensor(embeddings, device=device)
    nearest = nearest_neighbours(data, neighbours)
    clock.lap("neighbours")

    model = train_rqvae(data, options, lambda progress: emit("tokenize.progress", progress))
    clock.lap("rqvae")

    codes = assign_ids(model, data, options)
    clock.lap("ids")

    with torch.no_grad():
        result = model(data)
    report = id_report(result.codes.cpu().numpy(), codes, options.codes)
    report |= {"recon": result.recon.item(), "collisions": options.collisions, "seconds": clock.laps}
    return Tokenized(embeddings, nearest, codes, report)


class _Clock:
    """Seconds spent between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = now - self._last, now
