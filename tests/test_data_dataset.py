"""Saving and loading prepared data: what goes in comes out, and damage is named."""

from __future__ import annotations

import json
import mmap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from streamrec_dist.data import workplace as workplace_module
from streamrec_dist.data.build import validate
from streamrec_dist.data.content import strings_hash
from streamrec_dist.data.dataset import Dataset
from streamrec_dist.data.demo import demo_catalogue
from streamrec_dist.data.files import load_dataset, save_dataset
from streamrec_dist.data.strings import Strings
from streamrec_dist.errors import DataError, UsageError

PARTS = ("interactions", "items", "times", "users")


def small(seed: int = 0, users: int = 20, items: int = 60) -> Dataset:
    """A small set with times, of which the demo has none."""
    ds = validate(demo_catalogue(users=users, items=items, seed=seed))
    return replace(ds, times=np.arange(ds.n_interactions, dtype=np.int64))


def part_file(directory: Path, part: str) -> Path:
    (file,) = directory.glob(f"files-*/{part}.arrow")
    return file


def test_a_dataset_survives_the_disk(tmp_path: Path):
    ds = small()
    save_dataset(ds, tmp_path / "deep" / "data")
    loaded = load_dataset(tmp_path / "deep" / "data")
    files = {path.name for path in (tmp_path / "deep" / "data").rglob("*") if path.is_file()}
    assert files == {"dataset.json", *(f"{part}.arrow" for part in PARTS)}
    for name in ("items", "offsets", "train_end", "valid_end", "times"):
        assert np.array_equal(getattr(loaded, name), getattr(ds, name))
        assert getattr(loaded, name).dtype == getattr(ds, name).dtype
    assert (loaded.items.dtype, loaded.offsets.dtype) == (np.int32, np.int64)
    for name in ("name", "synthetic", "user_ids", "item_ids", "titles", "texts", "content_hash", "notes"):
        assert getattr(loaded, name) == getattr(ds, name)
    assert (loaded.recipe, loaded.figures) == (ds.recipe, ds.figures)
    assert loaded.history(3).tolist() == ds.history(3).tolist()
    without = validate(demo_catalogue(users=20, items=60))
    save_dataset(without, tmp_path / "untimed")
    assert load_dataset(tmp_path / "untimed").times is None
    assert without.content_hash != ds.content_hash


def test_arrays_are_views_of_the_mapped_files(tmp_path: Path):
    save_dataset(small(), tmp_path / "data")
    loaded = load_dataset(tmp_path / "data", verify=False)
    for array in (loaded.items, loaded.offsets, loaded.train_end, loaded.times):
        assert not array.flags.owndata
        assert not array.flags.writeable
    # A change in the file is seen through the array: nothing was copied.
    with part_file(tmp_path / "data", "times").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        place = mapped.find(np.arange(8, dtype=np.int64).tobytes())
        assert place > 0
        mapped[place : place + 8] = np.int64(77).tobytes()
    assert loaded.times[0] == 77


def test_describe_by_hand(tmp_path: Path):
    raw = demo_catalogue(users=2, items=60)
    items = raw.items[:8].copy()
    items[4] = items[3]
    items[7] = items[5]
    ds = validate(
        type(raw)("n", "s", items, np.array([0, 3, 8]), ["a", "b"], raw.item_ids, raw.titles, raw.texts)
    )
    described = ds.describe()
    assert (described["users"], described["items"], described["interactions"]) == (2, 60, 8)
    lengths = [described[f"length_{name}"] for name in ("min", "median", "mean", "max")]
    assert lengths == [3, 4, 4, 5]
    assert described["items_never_used"] == 60 - len(set(items.tolist()))
    assert described["repeat_share"] == pytest.approx(2 / 8)
    assert described["target_repeat_share"] == pytest.approx(1 / 4)
    assert [described[f"{split}_targets"] for split in ("train", "valid", "test")] == [2, 2, 2]
    assert described["target_tie_share"] is None


def test_the_hash_sees_every_part_of_the_content(tmp_path: Path):
    base = small()
    items, times = base.items.copy(), base.times.copy()
    items[[0, 1]] = items[[1, 0]]
    times[0] = -1
    changes = {
        "items": items,
        "times": times,
        "train_end": base.train_end - 1,
        "valid_end": base.valid_end - 1,
        "user_ids": Strings.of(["other", *base.user_ids[1:]]),
        "item_ids": Strings.of(["other", *base.item_ids[1:]]),
        "titles": Strings.of(["other", *base.titles[1:]]),
        "texts": Strings.of(["other", *base.texts[1:]]),
    }
    hashes = {replace(base, **{name: value}).content_hash for name, value in changes.items()}
    assert len(hashes | {base.content_hash}) == len(changes) + 1


def test_the_hash_does_not_see_chunks_and_slices():
    texts = ["", "ab", "c", "日本語", "", "x" * 1000, "end"]
    whole = pa.array(texts, pa.large_string())
    expected = strings_hash(texts)
    chunked = pa.chunked_array([whole[:2], whole[2:2], whole[2:3], whole[3:]])
    padded = pa.array(["zzz", *texts, "zzz"], pa.large_string()).slice(1, len(texts))
    assert strings_hash(Strings(chunked)) == strings_hash(Strings(padded)) == expected
    for other in (["", "a", "bc", *texts[3:]], texts[:-1], [*texts, ""]):
        assert strings_hash(other) != expected
    assert strings_hash(["a"], ["b"]) != strings_hash(["a", "b"]) != strings_hash(["a"], ["b", ""])


def test_strings_behave_as_a_sequence():
    texts = Strings.of(["a", "é", "b", "a"])
    assert (len(texts), texts[1], texts[-1], list(texts)) == (4, "é", "a", ["a", "é", "b", "a"])
    assert list(texts[1:3]) == ["é", "b"]
    assert list(texts[::2]) == ["a", "b"]
    assert texts == ["a", "é", "b", "a"]
    assert texts != ["a"]
    assert (texts.index_of("a"), texts.index_of("b"), texts.index_of("z")) == (0, 2, None)
    assert texts.take(np.array([3, 1])) == ["a", "é"]
    with pytest.raises(IndexError):
        texts[4]
    assert list(Strings.of([])) == []


def test_saving_replaces_an_old_dataset_and_leaves_nothing_beside_it(tmp_path: Path):
    for seed in (0, 1, 1):
        save_dataset(small(seed), tmp_path / "data")
        assert load_dataset(tmp_path / "data").content_hash == small(seed).content_hash
        assert [path.name for path in tmp_path.iterdir()] == ["data"]
        assert len(list((tmp_path / "data").iterdir())) == 2


def test_an_empty_folder_and_a_link_to_one_are_filled(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for seed in (0, 1):
        save_dataset(small(seed), tmp_path / "link")
        assert load_dataset(tmp_path / "empty").content_hash == small(seed).content_hash
    assert (tmp_path / "link").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "link"}


def test_a_failed_write_leaves_the_old_dataset(tmp_path: Path):
    save_dataset(small(0), tmp_path / "data")
    with pytest.raises(TypeError):
        save_dataset(replace(small(1), titles=[1, 2, 3]), tmp_path / "data")
    assert load_dataset(tmp_path / "data").content_hash == small(0).content_hash
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("step", ["rename", "replace"])
def test_a_failed_rename_leaves_the_old_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str):
    save_dataset(small(0), tmp_path / "data")

    def fail(source, target):
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(workplace_module.os, step, fail)
        with pytest.raises(OSError, match="disk full"):
            save_dataset(small(1), tmp_path / "data")
    assert load_dataset(tmp_path / "data").content_hash == small(0).content_hash
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    save_dataset(small(2), tmp_path / "data")
    assert len(list((tmp_path / "data").iterdir())) == 2, (
        "what the failure left is cleaned up by the next one"
    )


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="holds files but no"):
        save_dataset(small(), tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        save_dataset(small(), tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("part", ["dataset", *PARTS])
def test_a_missing_or_truncated_file_is_named(tmp_path: Path, part: str, verify: bool):
    save_dataset(small(), tmp_path / "data")
    file = tmp_path / "data" / "dataset.json" if part == "dataset" else part_file(tmp_path / "data", part)
    whole = file.read_bytes()
    for length in (0, len(whole) // 2, len(whole) - 1 if part != "dataset" else 10):
        file.write_bytes(whole[:length])
        with pytest.raises(DataError, match=file.name):
            load_dataset(tmp_path / "data", verify)
    file.unlink()
    with pytest.raises(DataError, match=f"{file.name} is missing"):
        load_dataset(tmp_path / "data", verify)


@pytest.mark.parametrize("part", PARTS)
def test_an_altered_file_is_named(tmp_path: Path, part: str):
    save_dataset(small(0), tmp_path / "a")
    file = part_file(tmp_path / "a", part)
    content = bytearray(file.read_bytes())
    table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
    last = table.column(table.num_columns - 1).chunk(0)
    needle = (last.values if part == "interactions" else last).buffers()[-1].to_pybytes()[:32]
    content[content.index(needle) + 4] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=rf"{part}\.arrow: its content is not what dataset\.json recorded"):
        load_dataset(tmp_path / "a")


@pytest.mark.parametrize("part", PARTS)
def test_a_file_of_another_dataset_is_named(tmp_path: Path, part: str):
    save_dataset(small(0), tmp_path / "a")
    save_dataset(small(1, users=21, items=61), tmp_path / "b")
    part_file(tmp_path / "b", part).replace(part_file(tmp_path / "a", part))
    with pytest.raises(DataError, match=rf"{part}\.arrow: truncated or replaced"):
        load_dataset(tmp_path / "a")


def test_a_doctored_manifest_is_named(tmp_path: Path):
    save_dataset(small(), tmp_path / "data")
    manifest = tmp_path / "data" / "dataset.json"
    content = json.loads(manifest.read_text())
    for change, message in (
        ({"layout": 1}, "a dataset of layout 1, expected layout 2; prepare the data again"),
        ({"content_hash": "0" * 64}, "does not follow"),
    ):
        manifest.write_text(json.dumps({**content, **change}))
        with pytest.raises(DataError, match=message):
            load_dataset(tmp_path / "data")
    manifest.write_text(json.dumps({key: content[key] for key in content if key != "notes"}))
    with pytest.raises(DataError, match="notes"):
        load_dataset(tmp_path / "data")
    users = part_file(tmp_path / "data", "users")
    other = pa.table({"person": pa.array(["a"], pa.large_string())})
    with pa.OSFile(str(users), "wb") as sink, pa.ipc.new_file(sink, other.schema) as writer:
        writer.write_table(other)
    content["bytes"]["users"] = users.stat().st_size
    manifest.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"users\.arrow: expected the columns user"):
        load_dataset(tmp_path / "data")


def test_a_dataset_of_another_layout_is_replaced_and_other_files_stay(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "files-0123").mkdir()
    (tmp_path / "dataset.json").write_text('{"layout": 1}')
    save_dataset(small(), tmp_path)
    assert load_dataset(tmp_path).content_hash == small().content_hash
    assert not (tmp_path / "files-0123").exists()
    assert (tmp_path / "notes.txt").exists()
