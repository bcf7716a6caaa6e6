"""Ids for a data set that has grown: the items a run knows keep theirs, new ones get free ids of its codebooks."""

from __future__ import annotations

import numpy as np

from streamrec_dist.data.dataset import Dataset
from streamrec_dist.errors import UsageError
from streamrec_dist.items.encoder import load_encoder
from streamrec_dist.items.extend import extend_ids
from streamrec_dist.stages.run_store import RunStore
from streamrec_dist.stages.tokenize import restore_tokenizer, tokenizer_options


def extend_to(store: RunStore, dataset: Dataset) -> tuple[np.ndarray, int]:
    """Ids int32 [dataset.n_items, m] in the order of `dataset`, and how many of its items are new to the run.

    Items are recognised by their original ids. Nothing is trained: new items are placed by their texts alone.
    Raises UsageError for a run whose ids were given to it, RunError where the codebooks have no free id left.
    """
    config = store.run.config()
    if config.items.ids is not None:
        raise UsageError(
            f"run {store.run.name} took its ids from {config.items.ids}; it has no tokenizer to give new ones"
        )
    codes = store.ids()
    known = {item: number for number, item in enumerate(store.dataset().item_ids)}
    places = np.array([known.get(item, -1) for item in dataset.item_ids], dtype=np.int64)
    new = np.flatnonzero(places < 0)
    result = codes[places]
    if len(new):
        space, model = restore_tokenizer(store.item_arrays("tokenizer"), config)
        encoder = load_encoder(config.items.encoder, backend=config.items.backend)
        embeddings = encoder.encode([dataset.texts[int(item)] for item in new])
        # Ids of items that have left the catalogue are not given away: the model has learnt them as theirs.
        result[new] = extend_ids(model, space.join(embeddings), codes, tokenizer_options(config))
    return result, len(new)
