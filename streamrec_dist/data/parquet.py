"""Small Parquet files, read and written whole."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from streamrec_dist.data.arrow_files import check_plain_types
from streamrec_dist.errors import DataError


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a file so that readers see the old or the new one, never a part. Raises DataError where it cannot be."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table, unfinished)
        os.replace(unfinished, path)
    except OSError as error:
        if unfinished.exists():
            unfinished.unlink()
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None


def read_parquet(path: Path | str) -> pa.Table:
    """A whole file, its values checked. Raises DataError naming it when it is missing or damaged."""
    path = Path(path)
    try:
        check_plain_types(path)
        # An open file: of a name Arrow would guess whether it is an address, or a folder of many files. And one of
        # Arrow's own: its threads may let go of Python's when the process has begun to end, which aborts it.
        with pa.OSFile(os.fspath(path)) as file:
            table = pq.ParquetFile(file).read()
        table.validate(full=True)
        return table
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error
