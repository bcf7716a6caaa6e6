"""Semantic ids: one unique tuple of m codes for every item."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from streamrec_dist.items.collisions import add_digits, reassign_last_level, spread_crowded_groups
from streamrec_dist.items.tokenizer import ItemTokenizer, TokenizerOptions


def assign_ids(model: ItemTokenizer, vectors: np.ndarray | Tensor, options: TokenizerOptions) -> np.ndarray:
    """Unique semantic ids int32 [n, levels] of `vectors` [n, dim], by `options.collisions`.

    Raises RunError when there are more colliding items than ids to give them.
    """
    data = torch.as_tensor(vectors, dtype=torch.float32).to(model.shift.device)
    codes = model.encode(data).cpu().numpy()
    rng = np.random.default_rng(options.seed)
    with torch.no_grad():
        latents = model.latents(data)
    if options.collisions == "digit":
        # As if the digit were one more level, all of whose codes an id may still take.
        with_digit = np.pad(codes.astype(np.int64), ((0, 0), (0, 1)))
        spread_crowded_groups(model.quantizer, latents, with_digit, rng)
        return add_digits(with_digit[:, :-1], options.codes, rng)
    return reassign_last_level(model.quantizer, latents, codes, rng)
