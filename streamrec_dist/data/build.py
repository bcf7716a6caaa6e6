"""From a source and a recipe to a dataset.

source --rating, take in--> sequences --core--> events that stay --item list--> Draft --finish--> Dataset
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from streamrec_dist.data.dataset import Dataset
from streamrec_dist.data.draft import Draft, finish
from streamrec_dist.data.events import DescribedSource, Problems, Source
from streamrec_dist.data.formats import DEMO
from streamrec_dist.data.intake import Intake, take_in
from streamrec_dist.data.item_list import ItemList, list_items
from streamrec_dist.data.raw import RawData
from streamrec_dist.data.recipes import Recipe
from streamrec_dist.data.sequences import Sequences, core
from streamrec_dist.data.split import BLOCK
from streamrec_dist.data.strings import Strings


def build(
    source: Source, recipe: Recipe, problems: Problems, folder: Path, say: Callable[[str], None]
) -> Dataset:
    """The dataset of `source`; big arrays are memory maps of files in `folder`, so save it before that goes.

    Raises DataError naming the record, under `stop` for the first that cannot be used, always when nothing is left.
    `say` is called with the name of each part as it begins.
    """
    intake = take_in(source, problems, folder, recipe.min_rating, say)
    sequences, notes = intake.sequences, dict(intake.notes)
    say("filtering")
    keep = np.ones(len(sequences.items), dtype=bool)
    notes["events_outside_core"] = _filter_core(sequences, keep, recipe, len(intake.items))
    used = _used(sequences, keep, len(intake.items))
    say("reading items")
    listed = list_items(source, problems, intake.items, used, recipe.has_core, folder)
    if isinstance(source, DescribedSource) and not listed.described.all():
        _leave_unknown(source, problems, intake, listed, keep)
        notes["events_outside_core"] += _filter_core(sequences, keep, recipe, len(intake.items))
        listed = listed.select(listed.described)
        if recipe.has_core:
            listed = listed.select(_used(sequences, keep, len(intake.items))[listed.codes])
    say("splitting")
    place = getattr(source, "place", source.name)
    notes |= listed.notes()
    draft = Draft(source.name, place, sequences, keep, intake.users.strings(), listed, notes)
    return finish(draft, recipe, problems, folder)


def validate(raw: RawData, recipe: Recipe | None = None) -> Dataset:
    """The dataset of data in memory. Raises DataError for no items, no users, or users too short to split."""
    recipe = recipe or Recipe(DEMO)
    sequences = Sequences(raw.items, raw.offsets)
    keep = np.ones(len(raw.items), dtype=bool)
    outside = _filter_core(sequences, keep, recipe, len(raw.item_ids))
    ids, titles, texts = (Strings.of(column) for column in (raw.item_ids, raw.titles, raw.texts))
    known = np.ones(len(ids), dtype=bool)
    listed = ItemList(np.arange(len(ids)), ids, titles, texts, known, known, known)
    if recipe.has_core:
        listed = listed.select(_used(sequences, keep, len(ids)))
    notes = {**raw.notes, "events_outside_core": outside}
    users = Strings.of(raw.user_ids)
    draft = Draft(raw.name, raw.source, sequences, keep, users, listed, notes, raw.synthetic)
    return finish(draft, recipe, Problems())


def _filter_core(sequences: Sequences, keep: np.ndarray, recipe: Recipe, n_items: int) -> int:
    """Clears events outside the core, and those of users too short to split; says how many these are."""
    if not recipe.filters:
        return 0
    before = int(keep.sum())
    user_min = max(recipe.user_core or 1, recipe.split.min_events)
    core(sequences, keep, user_min, recipe.item_core or 1, n_items)
    return before - int(keep.sum())


def _used(sequences: Sequences, keep: np.ndarray, n_items: int) -> np.ndarray:
    """Which items have events: bool [n_items]."""
    used = np.zeros(n_items, dtype=bool)
    for start in range(0, len(keep), BLOCK):
        used[sequences.items[start : start + BLOCK][keep[start : start + BLOCK]]] = True
    return used


def _leave_unknown(
    source: DescribedSource, problems: Problems, intake: Intake, listed: ItemList, keep: np.ndarray
) -> None:
    """Clears the events of items that are not described. Raises DataError naming the first one under `stop`."""
    unknown = np.zeros(len(intake.items), dtype=bool)
    unknown[listed.codes[~listed.described]] = True
    rows = np.concatenate(
        [
            start + np.flatnonzero(unknown[intake.rows[start : start + BLOCK]])
            for start in range(0, len(intake.rows), BLOCK)
        ]
    )
    item = intake.items.strings()[int(intake.rows[rows[0]])]
    problems.bad("event_of_unknown_item", *source.unknown_item(int(rows[0]), item))
    problems.counts["event_of_unknown_item"] += len(rows) - 1
    for start in range(0, len(keep), BLOCK):
        keep[start : start + BLOCK] &= ~unknown[intake.sequences.items[start : start + BLOCK]]
