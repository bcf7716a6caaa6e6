"""Semantic ids: one unique tuple of m codes for every item, and their file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from streamrec_dist.errors import DataError
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.items.collisions import add_digits, reassign_last_level
from streamrec_dist.items.tokenizer import ItemTokenizer, TokenizerOptions

_CODES_KEY = b"codes_per_level"


def assign_ids(model: ItemTokenizer, vectors: np.ndarray | Tensor, options: TokenizerOptions) -> np.ndarray:
    """Unique semantic ids int32 [n, levels] of `vectors` [n, dim], by `options.collisions`.

    Raises RunError when there are more colliding items than ids to give them.
    """
    data = torch.as_tensor(vectors, dtype=torch.float32).to(model.shift.device)
    codes = model.encode(data).cpu().numpy()
    rng = np.random.default_rng(options.seed)
    if options.collisions == "digit":
        return add_digits(codes, options.codes, rng)
    with torch.no_grad():
        latents = model.latents(data)
    return reassign_last_level(model.quantizer, latents, codes, rng)


def save_ids(path: Path | str, codes: np.ndarray, codes_per_level: int) -> None:
    """Write ids [n, m] to a Parquet file: columns item, c1..cm; `codes_per_level` in its metadata."""
    Catalogue(codes, codes_per_level)  # refuses what could not be loaded again
    columns = {"item": pa.array(np.arange(len(codes), dtype=np.int32))}
    for level in range(codes.shape[1]):
        columns[f"c{level + 1}"] = pa.array(codes[:, level].astype(np.int32))
    table = pa.table(columns).replace_schema_metadata({_CODES_KEY: str(codes_per_level).encode()})
    temporary = Path(f"{path}.tmp")
    pq.write_table(table, temporary)
    os.replace(temporary, path)


def load_ids(path: Path | str) -> np.ndarray:
    """Ids int32 [n, m] from a file of `save_ids`.

    Raises DataError naming the file when it is missing or damaged, has other columns, or its ids repeat or leave
    the range that its metadata states.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path}: not a readable Parquet file ({error}); run the tokenize stage again"
        ) from error
    codes_per_level = _codes_per_level(table, path)
    levels = len(table.column_names) - 1
    expected = ["item", *(f"c{level + 1}" for level in range(levels))]
    if levels < 1 or table.column_names != expected:
        raise DataError(f"{path}: columns are {table.column_names}, expected item, c1, c2, ...")
    for field in table.schema:
        if not pa.types.is_integer(field.type) or table[field.name].null_count:
            raise DataError(f"{path}: column {field.name} must hold integers without nulls, has {field.type}")
    if not np.array_equal(table["item"].to_numpy(), np.arange(len(table))):
        raise DataError(f"{path}: column item must count 0, 1, 2, ...; the rows were re-ordered or cut")
    codes = np.stack([table[name].to_numpy() for name in expected[1:]], axis=1)
    try:
        Catalogue(codes, codes_per_level)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return codes.astype(np.int32)


def _codes_per_level(table: pa.Table, path: Path | str) -> int:
    value = (table.schema.metadata or {}).get(_CODES_KEY, b"")
    if not value.isdigit() or int(value) < 1:
        raise DataError(f"{path}: its metadata has no codes_per_level; expected a file of the tokenize stage")
    return int(value)
