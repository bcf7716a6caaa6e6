"""A dataset on disk: dataset.json and a folder of Arrow files, which are memory-mapped.

OUT/dataset.json                what is in it, how it was made, the hash of every part
OUT/files-HASH/interactions     items of all users (one list a user)
               users            ids, and where training and validation end
               items            ids, titles, texts
               times            of the events, where they are known

Arrow's own file format, uncompressed: its arrays lie in the file as they lie in memory. Parquet has to be decoded
into a copy by each process that opens the set: with 10 million interactions, a million users and 200,000 items
that took .4 s and 100 MB, where mapping takes 1 ms and nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from streamrec_dist.data.arrow_files import check_plain_types
from streamrec_dist.data.dataset import Dataset
from streamrec_dist.data.manifest import Manifest, read_manifest
from streamrec_dist.data.soundness import unsound
from streamrec_dist.data.strings import Strings
from streamrec_dist.data.workplace import MANIFEST, Workplace
from streamrec_dist.errors import DataError

SCHEMAS: dict[str, pa.Schema] = {
    "interactions": pa.schema([pa.field("items", pa.large_list(pa.int32()))]),
    "items": pa.schema([pa.field(name, pa.large_string()) for name in ("item", "title", "text")]),
    "users": pa.schema(
        [
            pa.field("user", pa.large_string()),
            pa.field("train_end", pa.int64()),
            pa.field("valid_end", pa.int64()),
        ]
    ),
    "times": pa.schema([pa.field("time", pa.int64())]),
}


def save_dataset(ds: Dataset, directory: Path) -> None:
    """Writes `ds` to `directory`; a failure leaves what was there.

    Raises UsageError where `directory` holds something that is no prepared dataset.
    """
    with Workplace(directory) as workplace:
        write_dataset(ds, workplace)


def write_dataset(ds: Dataset, workplace: Workplace) -> None:
    """Writes `ds` in the temporary folder of `workplace` and publishes it."""
    files = workplace.folder / "files"
    files.mkdir()
    for part, table in _tables(ds).items():
        with (
            pa.OSFile(str(files / f"{part}.arrow"), "wb") as sink,
            pa.ipc.new_file(sink, table.schema) as writer,
        ):
            writer.write_table(table)
    manifest = Manifest(
        name=ds.name,
        synthetic=ds.synthetic,
        recipe=dict(ds.recipe),
        figures=dict(ds.figures),
        notes=dict(ds.notes),
        problems=dict(ds.problems),
        examples=list(ds.examples),
        content=ds.hashes,
        content_hash=ds.content_hash,
        files=workplace.files_name(ds.content_hash),
        bytes={part: (files / f"{part}.arrow").stat().st_size for part in ds.hashes},
    )
    workplace.publish(
        files, ds.content_hash, json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n"
    )


def load_dataset(directory: Path, verify: bool = True) -> Dataset:
    """A prepared dataset behind memory maps; the arrays are read-only.

    `verify` hashes the whole content and compares; without it only the sizes of the files and their layout are
    checked, which reads none of the content. Raises DataError naming the file that is missing, truncated, of
    another layout, or whose content is not what dataset.json recorded.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    tables = {part: _read(directory, manifest, part, verify) for part in manifest.content}
    sequences = tables["interactions"].column("items").chunk(0)
    users, items = tables["users"], tables["items"]
    ds = Dataset(
        name=manifest.name,
        synthetic=manifest.synthetic,
        items=sequences.values.to_numpy(),
        offsets=sequences.offsets.to_numpy(),
        train_end=_numbers(users.column("train_end")),
        valid_end=_numbers(users.column("valid_end")),
        times=_numbers(tables["times"].column("time")) if "times" in tables else None,
        user_ids=Strings(users.column("user")),
        item_ids=Strings(items.column("item")),
        titles=Strings(items.column("title")),
        texts=Strings(items.column("text")),
        recipe=manifest.recipe,
        figures=manifest.figures,
        notes=manifest.notes,
        problems=manifest.problems,
        examples=manifest.examples,
    )
    if verify:
        _verify(ds, directory, manifest)
    else:
        # Known from the manifest, which was checked: hashing again is what `verify` is for.
        ds.__dict__["hashes"] = manifest.content
    return ds


def _tables(ds: Dataset) -> dict[str, pa.Table]:
    sequences = pa.LargeListArray.from_arrays(
        pa.array(ds.offsets, type=pa.int64()), pa.array(ds.items, type=pa.int32())
    )
    columns: dict[str, list[Any]] = {
        "interactions": [sequences],
        "items": [Strings.of(column).array for column in (ds.item_ids, ds.titles, ds.texts)],
        "users": [Strings.of(ds.user_ids).array, pa.array(ds.train_end), pa.array(ds.valid_end)],
    }
    if ds.times is not None:
        columns["times"] = [pa.array(ds.times)]
    return {part: pa.table(arrays, schema=SCHEMAS[part]) for part, arrays in columns.items()}


def _read(directory: Path, manifest: Manifest, part: str, verify: bool) -> pa.Table:
    path, recorded = directory / manifest.files / f"{part}.arrow", manifest.bytes[part]
    try:
        size = path.stat().st_size
        if size != recorded:
            raise DataError(
                f"{path}: truncated or replaced ({size} bytes, {MANIFEST} recorded {recorded}); "
                "prepare the data again"
            )
        check_plain_types(path)
        with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
            table = reader.read_all()
        table.validate(full=verify)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; prepare the data again") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: damaged Arrow file ({error}); prepare the data again") from error
    if not table.schema.equals(SCHEMAS[part]):
        raise DataError(
            f"{path}: expected the columns {SCHEMAS[part].to_string()}, found {table.schema.to_string()}; "
            "prepare the data again"
        )
    if any(column.null_count for column in table.columns) or (
        part == "interactions"
        and (table["items"].num_chunks != 1 or table["items"].chunk(0).values.null_count)
    ):
        raise DataError(f"{path}: has gaps, or is in several pieces; prepare the data again")
    return table


def _verify(ds: Dataset, directory: Path, manifest: Manifest) -> None:
    for part, digest in ds.hashes.items():
        recorded = manifest.content.get(part)
        if recorded != digest:
            raise DataError(
                f"{directory / manifest.files / part}.arrow: its content is not what {MANIFEST} recorded "
                f"(expected SHA-256 {recorded}, found {digest}); prepare the data again"
            )
    wrong = unsound(ds)
    if wrong:
        raise DataError(f"{directory}: {wrong}; prepare the data again")


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A view where the column is one chunk, as it is unless its chunks came from elsewhere."""
    return column.chunk(0).to_numpy() if column.num_chunks == 1 else column.to_numpy()
