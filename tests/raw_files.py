"""What the tests of raw formats share: writing lines, reading a source whole, and the problems it met."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from streamrec_dist.data.events import EVENTS, ITEMS, Problems, Source


def write_lines(path: Path, lines: Iterable[Any]) -> Path:
    """Writes one line an element (a dict as JSON), gzipped where the name ends in .gz."""
    texts = (line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines)
    content = "".join(f"{text}\n" for text in texts).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def events_of(source: Source, problems: Problems | None = None) -> list[tuple[Any, ...]]:
    """All events as tuples in the order of EVENTS."""
    return _tuples(source.events(problems or Problems()), EVENTS)


def items_of(source: Source, problems: Problems | None = None) -> list[tuple[Any, ...]]:
    """All items as tuples in the order of ITEMS."""
    return _tuples(source.items(problems or Problems()), ITEMS)


def skipped(read: Callable[[Problems], Any]) -> tuple[Any, Problems]:
    """What `read` returns where unusable records are skipped, and the problems it met."""
    problems = Problems("skip")
    return read(problems), problems


def _tuples(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> list[tuple[Any, ...]]:
    rows = []
    for batch in batches:
        assert batch.schema.equals(schema)
        batch.validate(full=True)
        rows += [tuple(row.values()) for row in batch.to_pylist()]
    return rows
