"""Text embeddings on disk, in shards that are written as they come: a killed run embeds only what is missing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streamrec_dist.data.parquet import read_parquet
from streamrec_dist.errors import DataError, RunError
from streamrec_dist.json_file import parse_json
from streamrec_dist.rundir import write_atomically

#: Items of a shard: what a kill loses at most, for each worker.
SHARD_ITEMS = 512


class EmbeddingShards:
    """A folder of Parquet files `part-FIRST.parquet`, each with the embeddings of SHARD_ITEMS items in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, made_of: dict[str, Any]) -> list[tuple[int, int]]:
        """Ranges first..last of items that have no shard yet, of `made_of["items"]` items in all.

        `made_of` says what the embeddings are made of (encoder, data); shards of anything else are dropped.
        """
        manifest = self.folder / "manifest.json"
        if _read_manifest(manifest) != made_of:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            write_atomically(manifest, json.dumps(made_of, indent=1))
        ranges = _ranges(made_of["items"])
        return [(first, last) for first, last in ranges if not self._path(first).is_file()]

    def write(self, first: int, vectors: np.ndarray) -> None:
        """Add the shard of items `first`..: float32 [items, dim]."""
        flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
        column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        unfinished = self._path(first).with_suffix(f".{os.getpid()}")
        # Numbers that hardly ever recur: a dictionary would make the file half as large again.
        pq.write_table(pa.table({"embedding": column}), unfinished, compression="none", use_dictionary=False)
        os.replace(unfinished, self._path(first))

    def load(self, items: int) -> np.ndarray:
        """Embeddings float32 [items, dim]. Raises RunError for a missing shard, DataError for a damaged one."""
        parts = [self._read(first, last - first) for first, last in _ranges(items)]
        for number, part in enumerate(parts):
            if part.shape[1] != parts[0].shape[1]:
                raise DataError(
                    f"{self._path(number * SHARD_ITEMS)}: vectors of {part.shape[1]} numbers, those before have "
                    f"{parts[0].shape[1]}; remove {self.folder} and run stage tokenize again"
                )
        return np.concatenate(parts)

    def _read(self, first: int, rows: int) -> np.ndarray:
        path = self._path(first)
        if not path.is_file():
            raise RunError(f"{path}: missing; not all item texts have been embedded")
        try:
            table = read_parquet(path)
        except DataError as error:
            raise DataError(f"{error}; remove it and run stage tokenize again") from None
        kind = table.schema.types[0] if table.column_names == ["embedding"] else None
        if (
            not isinstance(kind, pa.FixedSizeListType)
            or kind.value_type != pa.float32()
            or not kind.list_size
        ):
            raise DataError(
                f"{path}: damaged: expected a column embedding of float32 vectors, has {table.schema.to_string()}; "
                "remove it and run stage tokenize again"
            )
        column = table["embedding"].combine_chunks()
        if len(column) != rows or column.null_count or column.values.null_count:
            raise DataError(f"{path}: holds {len(column)} items, expected {rows}; remove it and run again")
        return column.flatten().to_numpy().reshape(rows, kind.list_size)

    def _path(self, first: int) -> Path:
        return self.folder / f"part-{first:09d}.parquet"


def _read_manifest(path: Path) -> Any:
    """What the shards are made of; None where that cannot be told."""
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def _ranges(items: int) -> Iterator[tuple[int, int]]:
    return ((first, min(first + SHARD_ITEMS, items)) for first in range(0, items, SHARD_ITEMS))
