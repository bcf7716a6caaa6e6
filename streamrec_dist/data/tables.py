"""A table of named columns, read record by record with the place of each for error messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from streamrec_dist.data.arrow_files import check_plain_types
from streamrec_dist.data.csv_records import csv_records
from streamrec_dist.data.events import Problems
from streamrec_dist.data.raw import suggest
from streamrec_dist.errors import DataError

PARQUET_BATCH = 65_536
#: Columns of a CSV file that hold a word or a number: a line break in one of them is an open quote.
SHORT = ("user", "item", "timestamp", "rating")


@dataclass(frozen=True)
class Table:
    """`rows(problems)` yields (place, {column: value}); a place is "file:line" (CSV) or "file: row n" (from 1).

    The line is the one where the record begins.

    `columns` are those asked for that are there, `header` all of them. `units` has the unit of columns of time
    stamps, which come as integers.
    """

    path: Path
    columns: Sequence[str]
    header: Sequence[str]
    rows: Callable[[Problems], Iterator[tuple[str, dict[str, Any]]]]
    units: dict[str, str]


def open_csv(path: Path, required: Sequence[str], optional: Sequence[str]) -> Table:
    """A UTF-8 CSV file, plain or gzipped (.gz), whose first line names the columns.

    Raises DataError for a file that is not that.
    """
    path = _gzipped(path) if not path.is_file() and _gzipped(path).is_file() else path
    _must_exist(path)
    _, header = next(csv_records(path, Problems()), (0, []))
    columns = [name.strip() for name in header]
    wanted = _wanted(path, columns, required, optional)
    places = [(name, columns.index(name)) for name in wanted]

    def rows(problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
        records, file = csv_records(path, problems, SHORT), str(path)
        next(records)
        for line, cells in records:
            yield f"{file}:{line}", {name: cells[place] for name, place in places}

    return Table(path, wanted, columns, rows, {})


def open_parquet(path: Path, required: Sequence[str], optional: Sequence[str]) -> Table:
    """A Parquet file. Raises DataError for one that is missing, damaged or lacks a required column."""
    _must_exist(path)
    try:
        check_plain_types(path)
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: damaged or truncated Parquet ({error}); write the file again") from error
    wanted = _wanted(path, schema.names, required, optional)
    units = {
        name: schema.field(name).type.unit
        for name in wanted
        if pa.types.is_timestamp(schema.field(name).type)
    }

    def rows(problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
        row = 0
        for batch in _parquet_batches(path, wanted):
            for record in _records(path, batch):
                row += 1
                yield f"{path}: row {row}", record

    return Table(path, wanted, schema.names, rows, units)


def _parquet_batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            yield from file.iter_batches(batch_size=PARQUET_BATCH, columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged or truncated Parquet ({error}); write the file again") from error


def _records(path: Path, batch: pa.RecordBatch) -> list[dict[str, Any]]:
    try:
        batch.validate(full=True)
        return _without_timestamps(batch).to_pylist()
    except (pa.ArrowException, ArithmeticError, ValueError) as error:
        # Texts that are not UTF-8, or times and durations that Python has no value for.
        raise DataError(f"{path}: a value that cannot be read ({error}); write the file again") from error


def _without_timestamps(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Timestamps as integers of the column's unit: Python's datetime cannot hold nanoseconds."""
    for place, column in enumerate(batch.schema):
        if pa.types.is_timestamp(column.type):
            batch = batch.set_column(place, column.name, batch.column(place).cast(pa.int64()))
    return batch


def _gzipped(path: Path) -> Path:
    return path.with_name(f"{path.name}.gz")


def _must_exist(path: Path) -> None:
    if not path.is_file():
        near = sorted(p.name for p in path.parent.iterdir() if p.is_file())
        raise DataError(f"{path} is missing; the folder holds: {', '.join(near) or 'no files'}")


def _wanted(path: Path, columns: list[str], required: Sequence[str], optional: Sequence[str]) -> list[str]:
    double = sorted({name for name in columns if columns.count(name) > 1})
    if double:
        raise DataError(f"{path}: the column {double[0]!r} occurs twice in the header")
    missing = [name for name in required if name not in columns]
    if missing:
        raise DataError(
            f"{path}: the column {missing[0]!r} is missing{suggest(missing[0], columns)}; "
            f"expected {', '.join(required)} (and perhaps {', '.join(optional)}), "
            f"found {', '.join(columns) or 'an empty file'}"
        )
    return [name for name in (*required, *optional) if name in columns]
