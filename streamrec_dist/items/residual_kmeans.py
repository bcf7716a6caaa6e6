"""Residual k-means: codes straight from the item vectors, without an encoder."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from streamrec_dist.errors import DataError
from streamrec_dist.items.tokenizer import ItemTokenizer, TokenizerOptions

ITERATIONS = 25
_SAMPLE = 2**16


def fit_residual_kmeans(vectors: np.ndarray | Tensor, options: TokenizerOptions) -> ItemTokenizer:
    """Codebooks that are the k-means centroids of what the levels before left over of `vectors` [n, dim].

    Raises DataError on no items. Equal seeds give equal codebooks on one device.
    """
    data = torch.as_tensor(vectors, dtype=torch.float32)
    if len(data) == 0:
        raise DataError("the catalogue is empty: there is no item to make semantic ids for")
    generator = torch.Generator().manual_seed(options.seed)
    model = ItemTokenizer(data.shape[1], options).to(data.device).eval().requires_grad_(False)
    model.fit_scale(data)
    rows = torch.randperm(len(data), generator=generator)[:_SAMPLE]
    model.quantizer.place_codewords(model.latents(data[rows.to(data.device)]), generator, ITERATIONS)
    return model
