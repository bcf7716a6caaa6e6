"""Saving and loading prepared data: what goes in comes out, and damage is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from streamrec_dist.data import dataset as dataset_module
from streamrec_dist.data.dataset import Dataset, load_dataset, save_dataset
from streamrec_dist.data.demo import demo_catalogue
from streamrec_dist.data.prepare import validate
from streamrec_dist.errors import DataError, UsageError

FILES = {"interactions.parquet", "items.parquet", "users.parquet", "dataset.json"}


def small(seed: int = 0) -> Dataset:
    return validate(demo_catalogue(users=20, items=60, seed=seed))


def test_a_dataset_survives_the_disk(tmp_path: Path):
    ds = small()
    save_dataset(ds, tmp_path / "deep" / "data")
    loaded = load_dataset(tmp_path / "deep" / "data")
    assert {path.name for path in (tmp_path / "deep" / "data").iterdir()} == FILES
    assert np.array_equal(loaded.items, ds.items)
    assert np.array_equal(loaded.offsets, ds.offsets)
    assert (loaded.items.dtype, loaded.offsets.dtype) == (np.int32, np.int64)
    for name in ("name", "synthetic", "user_ids", "item_ids", "titles", "texts", "content_hash", "notes"):
        assert getattr(loaded, name) == getattr(ds, name)
    assert loaded.history(3).tolist() == ds.history(3).tolist()


def test_describe_by_hand(tmp_path: Path):
    raw = demo_catalogue(users=2, items=60)
    ds = validate(
        type(raw)(
            "n", "s", raw.items[:8], np.array([0, 3, 8]), ["a", "b"], raw.item_ids, raw.titles, raw.texts
        )
    )
    described = ds.describe()
    assert (described["users"], described["items"], described["interactions"]) == (2, 60, 8)
    lengths = [described[f"length_{name}"] for name in ("min", "median", "mean", "max")]
    assert lengths == [3, 4, 4, 5]
    assert described["items_never_used"] == 60 - len(set(raw.items[:8].tolist()))


def test_the_hash_sees_every_part_of_the_content_and_not_the_layout(tmp_path: Path):
    raw = demo_catalogue(users=20, items=60)
    base = validate(raw)
    items = raw.items.copy()
    items[0], items[1] = items[1], items[0]
    changes = {
        "items": items,
        "user_ids": ["other", *raw.user_ids[1:]],
        "item_ids": ["other", *raw.item_ids[1:]],
        "titles": ["other", *raw.titles[1:]],
        "texts": ["other", *raw.texts[1:]],
    }
    hashes = {
        validate(type(raw)(**{**vars(raw), name: value})).content_hash for name, value in changes.items()
    }
    assert len(hashes | {base.content_hash}) == len(changes) + 1
    save_dataset(base, tmp_path / "data")
    items_file = tmp_path / "data" / "items.parquet"
    pq.write_table(pq.read_table(items_file), items_file, compression="zstd", row_group_size=7)
    assert load_dataset(tmp_path / "data").content_hash == base.content_hash


def test_saving_replaces_an_old_dataset_and_leaves_nothing_beside_it(tmp_path: Path):
    save_dataset(small(0), tmp_path / "data")
    save_dataset(small(1), tmp_path / "data")
    assert load_dataset(tmp_path / "data").content_hash == small(1).content_hash
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_failed_write_leaves_the_old_dataset(tmp_path: Path):
    save_dataset(small(0), tmp_path / "data")
    broken = Dataset(**{**vars(small(1)), "titles": [1, 2, 3]})
    with pytest.raises(TypeError):
        save_dataset(broken, tmp_path / "data")
    assert load_dataset(tmp_path / "data").content_hash == small(0).content_hash
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_failed_rename_puts_the_old_dataset_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_dataset(small(0), tmp_path / "data")
    replace = dataset_module.os.replace

    def fail_once_moved_away(source, target):
        if str(source).endswith(".new"):
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(dataset_module.os, "replace", fail_once_moved_away)
    with pytest.raises(OSError, match="disk full"):
        save_dataset(small(1), tmp_path / "data")
    assert load_dataset(tmp_path / "data").content_hash == small(0).content_hash
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="holds files but no"):
        save_dataset(small(), tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        save_dataset(small(), tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_or_truncated_file_is_named(tmp_path: Path, name: str):
    save_dataset(small(), tmp_path / "data")
    file = tmp_path / "data" / name
    whole = file.read_bytes()
    for length in (0, len(whole) // 2):
        file.write_bytes(whole[:length])
        with pytest.raises(DataError, match=name):
            load_dataset(tmp_path / "data")
    file.unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        load_dataset(tmp_path / "data")


@pytest.mark.parametrize("part", ["interactions", "items", "users"])
def test_a_file_of_another_dataset_is_named(tmp_path: Path, part: str):
    save_dataset(small(0), tmp_path / "a")
    save_dataset(validate(demo_catalogue(users=21, items=61, seed=1)), tmp_path / "b")
    (tmp_path / "b" / f"{part}.parquet").replace(tmp_path / "a" / f"{part}.parquet")
    with pytest.raises(DataError, match=rf"{part}\.parquet: its content is not what dataset\.json recorded"):
        load_dataset(tmp_path / "a")


def test_wrong_columns_and_a_doctored_manifest_are_named(tmp_path: Path):
    save_dataset(small(), tmp_path / "data")
    manifest = tmp_path / "data" / "dataset.json"
    content = json.loads(manifest.read_text())
    for change, message in (
        ({"layout": 99}, "layout 1"),
        ({"content_hash": "0" * 64}, "does not follow"),
    ):
        manifest.write_text(json.dumps({**content, **change}))
        with pytest.raises(DataError, match=message):
            load_dataset(tmp_path / "data")
    manifest.write_text(json.dumps({key: content[key] for key in content if key != "notes"}))
    with pytest.raises(DataError, match="notes"):
        load_dataset(tmp_path / "data")
    manifest.write_text(json.dumps(content))
    users = tmp_path / "data" / "users.parquet"
    pq.write_table(pq.read_table(users).rename_columns(["person"]), users)
    with pytest.raises(DataError, match=r"users\.parquet: expected the columns user"):
        load_dataset(tmp_path / "data")
