"""The pipeline from a source to a dataset, against a reference that uses plain loops and dictionaries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from streamrec_dist.data import build as build_module
from streamrec_dist.data import draft, intake, split
from streamrec_dist.data.build import build
from streamrec_dist.data.dataset import Dataset
from streamrec_dist.data.events import EVENTS, ITEMS, OnError, Problems, batches
from streamrec_dist.data.recipes import Recipe
from streamrec_dist.data.split import Split
from streamrec_dist.errors import DataError

Event = tuple[str, str, int | None, float | None]


class MemorySource:
    """Events and items from lists, in batches of a few rows."""

    name = "memory"

    def __init__(self, events: Sequence[Event], items: Sequence[tuple[str, ...]] = (), size: int = 7):
        self._events, self._items, self._size = events, items, size

    def events(self, problems: Problems) -> Iterator[pa.RecordBatch]:
        return batches(self._events, EVENTS, self._size)

    def items(self, problems: Problems) -> Iterator[pa.RecordBatch]:
        return batches(self._items, ITEMS, self._size)


def made(
    tmp_path: Path,
    events: Sequence[Event],
    recipe: Recipe,
    items: Sequence[tuple[str, ...]] = (),
    on_error: OnError = "stop",
) -> Dataset:
    tmp_path.mkdir(exist_ok=True)
    return build(MemorySource(events, items), recipe, Problems(on_error), tmp_path, lambda part: None)


def described(*names: str) -> list[tuple[str, ...]]:
    return [(name, f"title of {name}", "", "", "") for name in names]


def sequences_of(ds: Dataset) -> dict[str, list[tuple[str, int | None]]]:
    """User -> (item id, time) in order."""
    found = {}
    for user in range(ds.users):
        inside = slice(ds.offsets[user], ds.offsets[user + 1])
        times = [None] * len(ds.items[inside]) if ds.times is None else ds.times[inside].tolist()
        found[ds.user_ids[user]] = [
            (ds.item_ids[item], time) for item, time in zip(ds.items[inside], times, strict=True)
        ]
    return found


def reference(events: Sequence[Event], recipe: Recipe) -> dict[str, list[tuple[str, int | None]]]:
    """The same by the definitions: first ratings, then duplicates, then the core, then order."""
    timed = any(time is not None for _, _, time, _ in events)
    if recipe.min_rating is not None:
        events = [event for event in events if event[3] is not None and event[3] > recipe.min_rating]
    kept, seen = [], set()
    for event in events:
        if timed and event[:3] in seen:
            continue
        seen.add(event[:3])
        kept.append(event)
    if recipe.filters:
        user_min = max(recipe.user_core or 1, recipe.split.min_events)
        while True:
            users = Counter(event[0] for event in kept)
            items = Counter(event[1] for event in kept)
            left = [
                event
                for event in kept
                if users[event[0]] >= user_min and items[event[1]] >= (recipe.item_core or 1)
            ]
            if len(left) == len(kept):
                break
            kept = left
    found: dict[str, list[tuple[str, int | None]]] = {}
    for user, item, time, _ in kept:
        found.setdefault(user, []).append((item, time))
    return {user: sorted(own, key=lambda event: event[1] or 0) for user, own in found.items()}


def random_events(rng: np.random.Generator, timed: bool) -> list[Event]:
    users, items = rng.integers(3, 12), rng.integers(3, 12)
    return [
        (
            f"u{rng.integers(users)}é",
            f"B0{rng.zipf(1.7) % items}",
            int(rng.integers(0, 9)) * 1000 if timed else None,
            float(rng.integers(1, 6)) if rng.random() < 0.9 else None,
        )
        for _ in range(rng.integers(20, 120))
    ]


@pytest.mark.parametrize("seed", range(40))
def test_any_recipe_gives_what_the_definitions_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
):
    # Blocks of a few events: borders fall everywhere.
    for module in (split, intake, build_module, draft):
        monkeypatch.setattr(module, "BLOCK", 16)
    rng = np.random.default_rng(seed)
    timed = bool(seed % 4)
    events = random_events(rng, timed)
    choices = {
        "min_rating": [None, 2.0],
        "user_core": [None, 2, 4],
        "item_core": [None, 2, 4],
        "split": [Split(), Split((3000, 6000))] if timed else [Split()],
    }
    drawn = {name: values[rng.integers(len(values))] for name, values in choices.items()}
    recipe = Recipe("csv", **drawn)
    expected = reference(events, recipe)
    if not recipe.filters:
        expected = {user: own for user, own in expected.items() if len(own) >= recipe.split.min_events}
    if not expected:
        with pytest.raises(DataError, match="there are no users"):
            made(tmp_path, events, recipe, on_error="skip")
        return
    ds = made(tmp_path, events, recipe, on_error="skip")
    assert sequences_of(ds) == expected
    first_seen = list(dict.fromkeys(event[0] for event in events))
    assert list(ds.user_ids) == [user for user in first_seen if user in expected]
    if recipe.has_core:
        assert set(ds.item_ids) == {item for own in expected.values() for item, _ in own}
    assert_split(ds)
    assert_figures(ds)


def assert_split(ds: Dataset) -> None:
    for user, own in enumerate(sequences_of(ds).values()):
        if ds.recipe["split"] == "leave-one-out":
            expected = (len(own) - 2, len(own) - 1)
        else:
            expected = tuple(sum(time < moment for _, time in own) for moment in (3000, 6000))
        assert (ds.train_end[user], ds.valid_end[user]) == expected


def assert_figures(ds: Dataset) -> None:
    repeated = targets = ties = repeated_targets = 0
    for user, own in enumerate(sequences_of(ds).values()):
        for place, (item, time) in enumerate(own):
            again = item in [other for other, _ in own[:place]]
            repeated += again
            if place >= max(1, ds.train_end[user]):
                targets += 1
                repeated_targets += again
                ties += time == own[place - 1][1]
    figures = ds.figures
    assert figures["repeat_share"] == pytest.approx(repeated / ds.n_interactions)
    assert figures["valid_targets"] + figures["test_targets"] == targets
    assert figures["target_repeat_share"] == pytest.approx(repeated_targets / max(targets, 1))
    if ds.times is not None:
        assert figures["target_tie_share"] == pytest.approx(ties / max(targets, 1))


def test_batches_of_any_size_give_the_same_content(tmp_path: Path):
    rng = np.random.default_rng(1)
    events, recipe = random_events(rng, True), Recipe("csv", user_core=2)
    items = described(*(f"B0{number}" for number in range(12)))
    hashes = set()
    for size in (1, 5, 1000):
        folder = tmp_path / str(size)
        folder.mkdir()
        source = MemorySource(events, items, size)
        hashes.add(build(source, recipe, Problems(), folder, lambda part: None).content_hash)
    assert len(hashes) == 1


def test_duplicates_and_ties_by_hand(tmp_path: Path):
    events: list[Event] = [
        ("ann", "c", 20, None),
        ("ann", "a", 10, None),
        ("ann", "b", 10, None),
        ("ann", "a", 10, None),
        ("ann", "a", 20, None),
    ]
    ds = made(tmp_path, events, Recipe("csv"), described("a", "b", "c", "never"))
    assert sequences_of(ds) == {"ann": [("a", 10), ("b", 10), ("c", 20), ("a", 20)]}
    assert (ds.notes["duplicate_events"], ds.notes["items_never_used"]) == (1, 1)
    assert ds.figures["target_tie_share"] == 0.5
    assert ds.item_ids == ["a", "b", "c", "never"]


def test_a_low_rating_does_not_stand_for_its_duplicate(tmp_path: Path):
    ratings = {"a": (2, 5), "b": (5, 2), "c": (4, 4), "d": (1, None)}
    events: list[Event] = [
        ("ann", item, time, rating) for time, item in enumerate(ratings) for rating in ratings[item]
    ]
    ds = made(tmp_path, events, Recipe("csv", min_rating=3))
    assert sequences_of(ds) == {"ann": [("a", 0), ("b", 1), ("c", 2)]}
    notes = ds.notes
    assert (notes["events_read"], notes["events_low_rating"], notes["duplicate_events"]) == (8, 4, 1)


def test_without_times_the_order_of_the_source_counts_and_repeats_stay(tmp_path: Path):
    events: list[Event] = [("ann", item, None, None) for item in "abab"]
    ds = made(tmp_path, events, Recipe("csv"))
    assert [item for item, _ in sequences_of(ds)["ann"]] == list("abab")
    assert ds.times is None
    with pytest.raises(DataError, match="needs the times"):
        made(tmp_path / "split", events, Recipe("csv", split=Split((1, 2))))


def test_some_missing_times_are_a_problem(tmp_path: Path):
    events: list[Event] = [("ann", item, 5, None) for item in "abcd"]
    events[1] = ("ann", "b", None, None)
    events[2] = ("ann", "c", None, None)
    with pytest.raises(DataError, match=r"event 2 \(user 'ann'\): the time is missing, as it is for 2 of 4"):
        made(tmp_path / "stop", events, Recipe("csv"))
    events += [("ann", "e", 4, None)]
    ds = made(tmp_path / "skip", events, Recipe("csv"), on_error="skip")
    assert [item for item, _ in sequences_of(ds)["ann"]] == list("ead")
    assert ds.problems["event_without_time"] == 2


def test_users_with_too_few_events(tmp_path: Path):
    events: list[Event] = [("ann", item, 1, 4.0) for item in "abc"] + [("bob", "a", 1, 5.0)]
    with pytest.raises(DataError, match=r"user 'bob' has 1 item\(s\), and 1 of 2 users"):
        made(tmp_path / "stop", events, Recipe("csv"))
    ds = made(tmp_path / "skip", events, Recipe("csv"), on_error="skip")
    assert (list(ds.user_ids), ds.problems["user_too_short"]) == (["ann"], 1)
    assert list(made(tmp_path / "core", events, Recipe("csv", user_core=1)).user_ids) == ["ann"]
    one = made(tmp_path / "time", events, Recipe("csv", split=Split((1, 2))))
    assert list(one.user_ids) == ["ann", "bob"], "a split by time takes users of any length"
    with pytest.raises(DataError, match=r"after the filter \(users >= 9\) there are no users"):
        made(tmp_path / "none", events, Recipe("csv", user_core=9))


def test_ratings_must_be_there_where_they_count(tmp_path: Path):
    events: list[Event] = [("ann", item, 1, None) for item in "abc"]
    with pytest.raises(DataError, match="no event has a rating"):
        made(tmp_path, events, Recipe("csv", min_rating=3))
    low: list[Event] = [("ann", item, 1, 2.0) for item in "abc"]
    with pytest.raises(DataError, match=r"after the filter \(rating > 3\) there are no users"):
        made(tmp_path, low, Recipe("csv", min_rating=3))


def test_items_are_those_described_and_those_with_events(tmp_path: Path):
    events: list[Event] = [("ann", item, time, None) for time, item in enumerate(["x", "b", "b", "a"])]
    items = [
        ("never", "Never", "", "", ""),
        ("b", "Caf&eacute;\u00a0&amp; \n more", "Acme", "A, B", "e\u0301"),
        ("a", "", "", "", ""),
        ("b", "a second record", "", "", ""),
    ]
    ds = made(tmp_path / "all", events, Recipe("csv"), items)
    assert ds.item_ids == ["never", "b", "a", "x"]
    assert ds.titles == ["Never", "Café & more", "", ""]
    assert ds.texts[1] == "Café & more. Brand: Acme. Categories: A, B. é"
    notes = ds.notes
    assert (notes["items_described_twice"], notes["items_without_record"], notes["items_never_used"]) == (
        1,
        1,
        1,
    )
    assert (notes["items_without_text"], notes["items_without_any_field"]) == (2, 2)
    assert (ds.figures["text_coverage"], ds.figures["title_coverage"]) == (0.5, 0.5)
    cored = made(tmp_path / "core", events, Recipe("csv", user_core=3), items)
    assert cored.item_ids == ["b", "a", "x"]
    assert cored.notes["items_never_used"] == 0


def test_an_empty_source_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="memory: the catalogue is empty"):
        made(tmp_path / "a", [], Recipe("csv"))
    with pytest.raises(DataError, match="memory: there are no users"):
        made(tmp_path / "b", [], Recipe("csv"), described("a"))
