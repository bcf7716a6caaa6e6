"""Files of semantic ids: codes by the items' original ids, so that no order of items decides whose id is whose."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamrec_dist.data.parquet import read_parquet, write_parquet
from streamrec_dist.data.strings import Strings
from streamrec_dist.errors import DataError
from streamrec_dist.items.catalogue import Catalogue

_CODES_KEY = b"codes_per_level"
#: No level has more than a million codes.
_COUNT = re.compile(rb"[1-9]\d{0,5}|1000000")


@dataclass(frozen=True, eq=False)
class ItemIds:
    """The ids of n items: `items`, their original ids; `codes` int32 [n, m]; `source`, the file they came from.

    `codes_per_level` is what that file says; None where it does not.
    """

    items: Strings
    codes: np.ndarray
    source: str
    codes_per_level: int | None = None

    def of(self, items: Iterable[str]) -> np.ndarray:
        """Codes int32 [k, m] of `items`, in their order. Raises DataError naming the first that has none."""
        wanted = Strings.of(items)
        places = self.places(wanted)
        if (places < 0).any():
            missing = int((places < 0).argmax())
            raise DataError(
                f"{self.source}: has no id for item {wanted[missing]!r} ({int((places < 0).sum())} of {len(wanted)} "
                "items are missing); was it made for another data set? New items get ids by streamrec-dist ids extend"
            )
        return self.codes[places]

    def places(self, items: Iterable[str]) -> np.ndarray:
        """Where each of `items` stands here, int64 [k]; -1 for an item that is not here."""
        found = pc.index_in(Strings.of(items).array, value_set=self.items.array)
        return pc.fill_null(found, -1).to_numpy().astype(np.int64)


def save_ids(path: Path | str, items: Iterable[str], codes: np.ndarray, codes_per_level: int) -> None:
    """Write ids [n, m] to a Parquet file: columns item, c1..cm; `codes_per_level` in its metadata.

    Raises DataError where an item or an id is given twice, or the file cannot be written.
    """
    Catalogue(codes, codes_per_level)
    names = Strings.of(items)
    _check_distinct(names, str(path))
    columns: dict[str, pa.Array | pa.ChunkedArray] = {"item": names.array}
    for level in range(codes.shape[1]):
        columns[f"c{level + 1}"] = pa.array(codes[:, level].astype(np.int32))
    table = pa.table(columns).replace_schema_metadata({_CODES_KEY: str(codes_per_level).encode()})
    write_parquet(Path(path), table)


def load_ids(path: Path | str) -> ItemIds:
    """Ids from a file of `save_ids`.

    Raises DataError naming the file when it is missing or damaged, has other columns, an item twice, or its ids
    repeat or leave the range that its metadata states.
    """
    table = read_parquet(path)
    codes_per_level = _codes_per_level(table, path)
    levels = len(table.column_names) - 1
    expected = ["item", *(f"c{level + 1}" for level in range(levels))]
    if levels < 1 or table.column_names != expected:
        raise DataError(f"{path}: columns are {table.column_names}, expected item, c1, c2, ...")
    item, *rest = table.schema
    if not (pa.types.is_string(item.type) or pa.types.is_large_string(item.type)) or table["item"].null_count:
        raise DataError(f"{path}: column item must hold the items' original ids as text, has {item.type}")
    for field in rest:
        if not pa.types.is_integer(field.type) or table[field.name].null_count:
            raise DataError(f"{path}: column {field.name} must hold integers without nulls, has {field.type}")
    names = Strings(table["item"].cast(pa.large_string()))
    _check_distinct(names, str(path))
    codes = np.stack([table[name].to_numpy() for name in expected[1:]], axis=1)
    try:
        Catalogue(codes, codes_per_level)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return ItemIds(names, codes.astype(np.int32), str(path), codes_per_level)


def _codes_per_level(table: pa.Table, path: Path | str) -> int:
    value = (table.schema.metadata or {}).get(_CODES_KEY, b"")
    if not _COUNT.fullmatch(value):
        raise DataError(f"{path}: its metadata has no codes_per_level; expected a file of the tokenize stage")
    return int(value)


def _check_distinct(names: Strings, path: str) -> None:
    if pc.count_distinct(names.array).as_py() < len(names):
        counts = pc.value_counts(names.array)
        twice = next(entry["values"].as_py() for entry in counts if entry["counts"].as_py() > 1)
        raise DataError(f"{path}: item {twice!r} is given more than one id")
