"""New items in an old catalogue: ids from the codebooks as they are, and nobody's id changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from streamrec_dist.errors import RunError
from streamrec_dist.items.quantizer import ResidualQuantizer
from streamrec_dist.items.tokenizer import ItemTokenizer, TokenizerOptions


def extend_ids(
    model: ItemTokenizer, vectors: np.ndarray, taken: np.ndarray, options: TokenizerOptions
) -> np.ndarray:
    """Ids int32 [k, m] of new items with `vectors` [k, dim], none of which is in `taken` [n, m] or given twice.

    An item gets its nearest codes; where that id is taken, the lowest free digit, or under "sinkhorn" the nearest
    free last code, then the nearest free last code under the next-nearest codes of the level before. Raises
    RunError naming the item where no id is left.
    """
    data = torch.as_tensor(vectors, dtype=torch.float32).to(model.shift.device)
    codes = model.encode(data).cpu().numpy()
    used = {tuple(row) for row in taken.tolist()}
    ids = np.empty((len(codes), options.levels), dtype=np.int32)
    for item, nearest in enumerate(codes):
        candidates: Iterable[tuple[int, ...]]
        if options.collisions == "digit":
            candidates = ((*nearest.tolist(), digit) for digit in range(options.codes))
        else:
            candidates = _by_distance(model, data[item], nearest)
        free = next((candidate for candidate in candidates if candidate not in used), None)
        if free is None:
            raise RunError(
                f"new item {item} finds no free id near {nearest.tolist()}: train the tokenize stage again on the "
                "whole catalogue, with a higher items.codes or items.levels"
            )
        ids[item] = free
        used.add(free)
    return ids


def _by_distance(
    model: ItemTokenizer, vector: torch.Tensor, nearest: np.ndarray
) -> Iterator[tuple[int, ...]]:
    """Ids in the order in which they fit: the last code varies first, then the last but one."""
    quantizer = model.quantizer
    latent = model.latents(vector.unsqueeze(0))
    prefix = torch.from_numpy(nearest[None, :-1]).to(latent.device)
    for before in _nearest_codes(quantizer, latent, prefix[:, :-1]) if len(nearest) > 1 else [None]:
        if before is not None:
            prefix[0, -1] = before
        for last in _nearest_codes(quantizer, latent, prefix):
            yield (*prefix[0].tolist(), last)


def _nearest_codes(quantizer: ResidualQuantizer, latent: torch.Tensor, prefix: torch.Tensor) -> list[int]:
    """The codes of the level behind `prefix` [1, j], the nearest to what is left of `latent` [1, dim] first."""
    residual = quantizer.residual_before(latent, prefix)
    return quantizer.distances(residual, quantizer.codebooks[prefix.shape[1]])[0].argsort().tolist()
