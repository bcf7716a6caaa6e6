"""From a source of interactions to a validated, saved dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from streamrec_dist.data.dataset import (
    Dataset,
    combined_hash,
    content_hashes,
    load_dataset,
    save_dataset,
)
from streamrec_dist.data.demo import demo_catalogue
from streamrec_dist.data.raw import RawData, suggest
from streamrec_dist.data.readers import READERS
from streamrec_dist.errors import ConfigError, DataError

# Leave-one-out takes one item for test and one for validation, and each needs a history.
MIN_ITEMS = 3


def prepare(path: Path | None, fmt: str, out: Path, seed: int = 0) -> Dataset:
    """Reads `path` ("demo" makes its catalogue from `seed` instead), validates, saves to `out`, loads that.

    `fmt` is "demo", "lcrec", "csv" or "parquet". Raises ConfigError for a wrong format or path, DataError
    naming file and line or record for data that cannot be used; nothing is written then.
    """
    raw = _read(path, fmt, seed)
    save_dataset(validate(raw), out)
    return load_dataset(out)


def validate(raw: RawData) -> Dataset:
    """The dataset of what was read. Raises DataError for no items, no users, or users too short to split."""
    if not len(raw.item_ids):
        raise DataError(f"{raw.source}: the catalogue is empty; there must be at least one item")
    if not len(raw.user_ids):
        raise DataError(f"{raw.source}: there are no users; expected at least one with {MIN_ITEMS} items")
    lengths = np.diff(raw.offsets)
    short = np.flatnonzero(lengths < MIN_ITEMS)
    if len(short):
        user = short[0]
        raise DataError(
            f"{raw.source}: user {raw.user_ids[user]!r} has {lengths[user]} item(s), and {len(short)} of "
            f"{len(lengths)} users have fewer than {MIN_ITEMS}; the split needs an item each for training, "
            "validation and test: remove these users"
        )
    used = np.zeros(len(raw.item_ids), dtype=bool)
    used[raw.items] = True
    hashes = content_hashes(raw.items, raw.offsets, raw.user_ids, raw.item_ids, raw.titles, raw.texts)
    return Dataset(
        name=raw.name,
        synthetic=raw.synthetic,
        items=raw.items,
        offsets=raw.offsets,
        user_ids=raw.user_ids,
        item_ids=raw.item_ids,
        titles=raw.titles,
        texts=raw.texts,
        content_hash=combined_hash(hashes),
        notes={**raw.notes, "items_never_used": int((~used).sum())},
    )


def _read(path: Path | None, fmt: str, seed: int) -> RawData:
    if fmt == "demo":
        if path is not None:
            raise ConfigError(
                f"data format demo reads no files, but a path is given: {path}; remove the path"
            )
        return demo_catalogue(seed=seed)
    if fmt not in READERS:
        known = ["demo", *READERS]
        raise ConfigError(f"data format {fmt!r}: expected one of {', '.join(known)}{suggest(fmt, known)}")
    if path is None:
        raise ConfigError(f"data format {fmt} needs a path to a folder")
    return READERS[fmt](Path(path))
