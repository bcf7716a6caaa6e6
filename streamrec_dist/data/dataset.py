"""The prepared dataset: arrays of interactions and the texts of the items, kept as Parquet on disk."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streamrec_dist.errors import DataError, UsageError

MANIFEST = "dataset.json"
LAYOUT = 1
SCHEMAS = {
    "interactions": pa.schema([pa.field("items", pa.large_list(pa.int32()))]),
    "items": pa.schema([pa.field(name, pa.large_string()) for name in ("item", "title", "text")]),
    "users": pa.schema([pa.field("user", pa.large_string())]),
}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Users, their item sequences, and the items.

    `items` int32 [interactions]: item numbers, all users one after the other, oldest first; `offsets` int64
    [users + 1]. `texts` is what is embedded ("" where an item has none); `notes` counts what was found on
    reading. `content_hash` is a SHA-256 over ids, sequences, titles and texts, whatever the file layout.
    """

    name: str
    synthetic: bool
    items: np.ndarray
    offsets: np.ndarray
    user_ids: Sequence[str]
    item_ids: Sequence[str]
    titles: Sequence[str]
    texts: Sequence[str]
    content_hash: str
    notes: dict[str, int]

    @property
    def users(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    @property
    def n_interactions(self) -> int:
        return len(self.items)

    def history(self, user: int) -> np.ndarray:
        """All items of a user, int32 [length], oldest first (a view)."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def describe(self) -> dict[str, Any]:
        """Counts and the lengths of the sequences, ready for a table or JSON."""
        lengths = np.diff(self.offsets)
        return {
            "name": self.name,
            "synthetic": self.synthetic,
            "users": self.users,
            "items": self.n_items,
            "interactions": self.n_interactions,
            "length_min": int(lengths.min()),
            "length_median": float(np.median(lengths)),
            "length_mean": float(lengths.mean()),
            "length_max": int(lengths.max()),
            **self.notes,
        }


def save_dataset(ds: Dataset, directory: Path) -> None:
    """Writes `ds` as interactions.parquet, items.parquet, users.parquet and dataset.json.

    Everything is written beside `directory` and renamed into place, so that a failure leaves the old set.
    Raises UsageError where `directory` holds something that is no prepared dataset.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file; give a directory for the prepared data")
    if directory.is_dir() and any(directory.iterdir()) and not (directory / MANIFEST).is_file():
        raise UsageError(f"{directory} holds files but no {MANIFEST}: give an empty or a new directory")
    fresh = directory.parent / f".{directory.name}.{os.getpid()}.new"
    old = directory.parent / f".{directory.name}.{os.getpid()}.old"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        _write_files(ds, fresh)
        if directory.exists():
            os.replace(directory, old)
        os.replace(fresh, directory)
    finally:
        if old.exists() and not directory.exists():
            os.replace(old, directory)
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def load_dataset(directory: Path) -> Dataset:
    """Reads a prepared dataset through memory maps and verifies its content hashes.

    The arrays are read-only views of Arrow buffers. Raises DataError naming the file that is missing,
    truncated, of another layout, or whose content is not what dataset.json recorded.
    """
    directory = Path(directory)
    manifest = _read_manifest(directory / MANIFEST)
    sequences = _read_table(directory, "interactions").column("items").combine_chunks()
    items = _read_table(directory, "items")
    user_ids = _read_table(directory, "users").column("user").to_pylist()
    columns = [items.column(name).to_pylist() for name in ("item", "title", "text")]
    flat, offsets = sequences.values.to_numpy(), sequences.offsets.to_numpy()
    hashes = content_hashes(flat, offsets, user_ids, *columns)
    for part, digest in hashes.items():
        if manifest["content"].get(part) != digest:
            raise DataError(
                f"{directory / (part + '.parquet')}: its content is not what {MANIFEST} recorded (expected "
                f"SHA-256 {manifest['content'].get(part)}, found {digest}); prepare the data again"
            )
    return Dataset(
        name=manifest["name"],
        synthetic=manifest["synthetic"],
        items=flat,
        offsets=offsets,
        user_ids=user_ids,
        item_ids=columns[0],
        titles=columns[1],
        texts=columns[2],
        content_hash=combined_hash(hashes),
        notes=manifest["notes"],
    )


def content_hashes(
    items: np.ndarray,
    offsets: np.ndarray,
    user_ids: Sequence[str],
    item_ids: Sequence[str],
    titles: Sequence[str],
    texts: Sequence[str],
) -> dict[str, str]:
    """SHA-256 of the three parts of a dataset's content: interactions, items, users."""
    interactions = hashlib.sha256(np.ascontiguousarray(offsets, dtype="<i8").data)
    interactions.update(np.ascontiguousarray(items, dtype="<i4").data)
    return {
        "interactions": interactions.hexdigest(),
        "items": _text_hash(text for row in zip(item_ids, titles, texts, strict=True) for text in row),
        "users": _text_hash(user_ids),
    }


def combined_hash(hashes: dict[str, str]) -> str:
    """One SHA-256 over the hashes of the parts."""
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _text_hash(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8")
        # The length keeps ("ab", "c") apart from ("a", "bc").
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()


def _write_files(ds: Dataset, directory: Path) -> None:
    sequences = pa.LargeListArray.from_arrays(
        pa.array(ds.offsets, type=pa.int64()), pa.array(ds.items, type=pa.int32())
    )
    columns = {
        "interactions": [sequences],
        "items": [pa.array(column, type=pa.large_string()) for column in (ds.item_ids, ds.titles, ds.texts)],
        "users": [pa.array(ds.user_ids, type=pa.large_string())],
    }
    for part, arrays in columns.items():
        table = pa.Table.from_arrays(arrays, schema=SCHEMAS[part])
        # Stored uncompressed, a file can be read through a memory map without an inflated second copy.
        pq.write_table(table, directory / f"{part}.parquet", compression="none", use_dictionary=False)
    hashes = content_hashes(ds.items, ds.offsets, ds.user_ids, ds.item_ids, ds.titles, ds.texts)
    manifest = {
        "layout": LAYOUT,
        "content": hashes,
        "content_hash": combined_hash(hashes),
        **ds.describe(),
        "notes": ds.notes,
    }
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: prepare the data first (streamrec-dist data prepare)") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); prepare the data again") from error
    if not isinstance(manifest, dict) or manifest.get("layout") != LAYOUT:
        raise DataError(f"{path}: expected a dataset of layout {LAYOUT}; prepare the data again")
    missing = sorted({"name", "synthetic", "content", "content_hash", "notes"} - manifest.keys())
    if missing:
        raise DataError(f"{path}: the keys {', '.join(missing)} are missing; prepare the data again")
    if manifest["content_hash"] != combined_hash(manifest["content"]):
        raise DataError(f"{path}: content_hash does not follow from its parts; prepare the data again")
    return manifest


def _read_table(directory: Path, part: str) -> pa.Table:
    path = directory / f"{part}.parquet"
    try:
        with pa.memory_map(str(path)) as source:
            table = pq.read_table(source)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; prepare the data again") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged or truncated Parquet ({error}); prepare the data again") from error
    if not table.schema.equals(SCHEMAS[part]):
        raise DataError(
            f"{path}: expected the columns {SCHEMAS[part].to_string()}, found {table.schema.to_string()}; "
            "prepare the data again"
        )
    return table
