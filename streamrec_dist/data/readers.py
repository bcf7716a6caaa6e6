"""The formats that can be read, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from streamrec_dist.data.events import Source
from streamrec_dist.data.formats import DEMO
from streamrec_dist.data.raw import suggest
from streamrec_dist.data.reader_lcrec import LcrecSource
from streamrec_dist.data.reader_table import TableSource
from streamrec_dist.data.sources import SOURCES as RAW_SOURCES
from streamrec_dist.errors import ConfigError

#: Each of formats.Format but the demo. A source is made from the path that the user gives.
SOURCES: dict[str, Callable[[Path], Source]] = {
    "lcrec": LcrecSource,
    "csv": lambda path: TableSource(path, "csv"),
    "parquet": lambda path: TableSource(path, "parquet"),
    **RAW_SOURCES,
}


def open_source(path: Path | None, fmt: str) -> Source:
    """The source of a format. Raises ConfigError for an unknown format or no path."""
    if fmt not in SOURCES:
        known = [DEMO, *SOURCES]
        raise ConfigError(f"data format {fmt!r}: expected one of {', '.join(known)}{suggest(fmt, known)}")
    if path is None:
        raise ConfigError(f"data format {fmt} needs a path to a folder")
    return SOURCES[fmt](Path(path))
