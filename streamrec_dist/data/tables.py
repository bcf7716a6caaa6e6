"""A table of named columns, read row by row with the place of each row for error messages."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from streamrec_dist.data.raw import suggest
from streamrec_dist.errors import DataError

PARQUET_BATCH = 65_536


@dataclass(frozen=True)
class Table:
    """`rows()` yields (place, {column: value}); a place is "file:line" (CSV) or "file: row n" (from 1)."""

    path: Path
    columns: Sequence[str]
    rows: Callable[[], Iterator[tuple[str, dict[str, Any]]]]


def open_csv(path: Path, required: Sequence[str], optional: Sequence[str]) -> Table:
    """A UTF-8 CSV file whose first line names the columns. Raises DataError for a file that is not that."""
    _, header = next(_csv_lines(path), (0, []))
    columns = [name.strip() for name in header]
    wanted = _wanted(path, columns, required, optional)
    places = [(name, columns.index(name)) for name in wanted]

    def rows() -> Iterator[tuple[str, dict[str, Any]]]:
        lines = _csv_lines(path)
        next(lines)
        for line, cells in lines:
            if len(cells) != len(columns):
                raise DataError(
                    f"{path}:{line}: expected {len(columns)} fields ({', '.join(columns)}), found "
                    f"{len(cells)}; quote fields that hold commas"
                )
            yield f"{path}:{line}", {name: cells[place] for name, place in places}

    return Table(path, wanted, rows)


def open_parquet(path: Path, required: Sequence[str], optional: Sequence[str]) -> Table:
    """A Parquet file. Raises DataError for one that is missing, damaged or lacks a required column."""
    _must_exist(path)
    try:
        columns = pq.read_schema(path).names
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged or truncated Parquet ({error}); write the file again") from error
    wanted = _wanted(path, columns, required, optional)

    def rows() -> Iterator[tuple[str, dict[str, Any]]]:
        row = 0
        for batch in _parquet_batches(path, wanted):
            for record in _without_nanoseconds(batch).to_pylist():
                row += 1
                yield f"{path}: row {row}", record

    return Table(path, wanted, rows)


def _csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The non-empty records of a CSV file, each with the number of the line on which it ends."""
    _must_exist(path)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        try:
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}:{reader.line_num + 1}: not UTF-8 ({error.reason}); convert the file to UTF-8"
            ) from error
        except csv.Error as error:
            raise DataError(
                f"{path}:{reader.line_num}: malformed CSV ({error}); is a quote left open?"
            ) from error


def _parquet_batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            yield from file.iter_batches(batch_size=PARQUET_BATCH, columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged or truncated Parquet ({error}); write the file again") from error


def _without_nanoseconds(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Timestamps as integers of the column's unit: Python's datetime cannot hold nanoseconds."""
    for place, column in enumerate(batch.schema):
        if pa.types.is_timestamp(column.type):
            batch = batch.set_column(place, column.name, batch.column(place).cast(pa.int64()))
    return batch


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
