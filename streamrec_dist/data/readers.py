"""The formats that can be read, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from streamrec_dist.data.raw import RawData
from streamrec_dist.data.reader_lcrec import read_lcrec
from streamrec_dist.data.reader_table import read_table

READERS: dict[str, Callable[[Path], RawData]] = {
    "lcrec": read_lcrec,
    "csv": lambda path: read_table(path, "csv"),
    "parquet": lambda path: read_table(path, "parquet"),
}
