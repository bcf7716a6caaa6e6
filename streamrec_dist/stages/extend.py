"""Ids for a data set that has grown: the items a run knows keep theirs, new ones get free ids of its codebooks."""

from __future__ import annotations

import numpy as np

from streamrec_dist.data.dataset import Dataset
from streamrec_dist.data.strings import Strings
from streamrec_dist.errors import DataError, UsageError
from streamrec_dist.items.encoder import load_encoder
from streamrec_dist.items.extend import extend_ids
from streamrec_dist.items.id_file import ItemIds
from streamrec_dist.stages.run_store import RunStore
from streamrec_dist.stages.tokenize import item_vectors, restore_tokenizer, tokenizer_options


def extend_to(store: RunStore, dataset: Dataset, earlier: ItemIds | None = None) -> tuple[np.ndarray, int]:
    """Ids int32 [dataset.n_items, m] in the order of `dataset`, and how many of its items had none before.

    Items are recognised by their original ids: those of the run keep its ids, those of `earlier`, a file that this
    function made from the same run, keep theirs. Nothing is trained: new items are placed by their texts, and by
    the behaviour of the known items with the nearest texts. Raises UsageError for a run whose ids were given to it
    and for data that share no item with it, DataError for an `earlier` file of another run, RunError where the
    codebooks have no free id left.
    """
    config = store.run.config()
    if config.items.ids is not None:
        raise UsageError(
            f"run {store.run.name} took its ids from {config.items.ids}; it has no tokenizer to give new ones. "
            f"Extend the run that made them instead, with --ids {config.items.ids}"
        )
    known = store.ids()
    if earlier is not None:
        known = _with_earlier(known, earlier)
    places = known.places(dataset.item_ids)
    if (places < 0).all():
        raise UsageError(
            f"none of the {dataset.n_items} items of {dataset.name} is known to run {store.run.name}: "
            "are these the right data?"
        )
    new = np.flatnonzero(places < 0)
    result = known.codes[places]
    if len(new):
        space, model = restore_tokenizer(store.item_arrays("tokenizer"), config)
        encoder = load_encoder(config.items.encoder, backend=config.items.backend)
        embeddings = encoder.encode([dataset.texts[int(item)] for item in new])
        behaviour = None
        if space.behaviour_dim:
            trained = item_vectors(store.embeddings(), *store.training_part(), config)
            behaviour = space.guess_behaviour(embeddings, trained.texts, trained.joined)
        # Ids of items that have left the catalogue are not given away: the model has learnt them as theirs.
        vectors = space.join(embeddings, behaviour)
        result[new] = extend_ids(model, vectors, known.codes, tokenizer_options(config))
    return result, len(new)


def _with_earlier(known: ItemIds, earlier: ItemIds) -> ItemIds:
    """The run's ids and those that it gave to items later. Raises DataError where the two disagree."""
    places = earlier.places(known.items)
    both = np.flatnonzero(places >= 0)
    same = earlier.codes.shape[1] == known.codes.shape[1] and np.array_equal(
        earlier.codes[places[both]], known.codes[both]
    )
    if not same or len(both) == 0:
        raise DataError(
            f"{earlier.source}: its ids are not those of {known.source}; it was not extended from it"
        )
    added = np.flatnonzero(known.places(earlier.items) < 0)
    items = [*known.items, *earlier.items.take(added)]
    codes = np.concatenate([known.codes, earlier.codes[added]])
    return ItemIds(Strings.of(items), codes, known.source, known.codes_per_level)
