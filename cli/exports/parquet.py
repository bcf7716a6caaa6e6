"""The events of a run as one Parquet table: a row an event, a column a metric."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cli.exports.exporter import Exporter
from streamrec_dist.events import SCHEMA, Event
from streamrec_dist.rundir import RunDir

#: Rows of a row group, and metrics that have a column of their own.
ROWS, COLUMNS = 2**15, 1000
FIELDS = {
    "t": pa.timestamp("ms", tz="UTC"),
    "kind": pa.string(),
    "stage": pa.string(),
    "step": pa.int64(),
    "total": pa.int64(),
    "state": pa.string(),
    "split": pa.string(),
    "message": pa.string(),
}
#: Metrics that are no numbers, and those without a column, as a JSON object; null where there are none.
MORE = "more"


class ParquetTable(Exporter):
    """Writes the events that there are to a file, in two passes: the first finds the metrics. Raises OSError.

    The file appears when it is whole.
    """

    def __init__(self, run: RunDir, path: Path | None = None):
        super().__init__(run)
        self.path = path or run.path / "events.parquet"
        self.about = f"events as a table in {self.path}"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.unfinished = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        self.rows: list[Event] = []
        names = _names(event for part in run.event_parts() for event in part)
        self.columns = {name: number for number, name in enumerate(names)}
        types = FIELDS | dict.fromkeys(names, pa.float64()) | {MORE: pa.string()}
        about = {"streamrec.schema": str(SCHEMA), "streamrec.run": run.name}
        self.schema = pa.schema(list(types.items()), metadata=about)
        self.writer = pq.ParquetWriter(self.unfinished, self.schema, compression="zstd")

    def read(self) -> None:
        try:
            super().read()
        except BaseException:
            self.unfinished.unlink()
            raise

    def take(self, events: Sequence[Event]) -> None:
        self.rows += events
        while len(self.rows) >= ROWS:
            self._write(self.rows[:ROWS])
            del self.rows[:ROWS]

    def close(self) -> None:
        try:
            self._write(self.rows)
            self.writer.close()
            os.replace(self.unfinished, self.path)
        finally:
            self.unfinished.unlink(missing_ok=True)

    def _write(self, events: Sequence[Event]) -> None:
        """A row group."""
        table: list[list[Any]] = [[None] * len(events) for _ in self.columns]
        more: list[str | None] = []
        for row, event in enumerate(events):
            rest = {}
            for name, value in event.metrics.items():
                if name in self.columns and _is_number(value):
                    table[self.columns[name]][row] = float(value)
                elif value is not None:
                    rest[name] = value
            more.append(json.dumps(rest, ensure_ascii=False) if rest else None)
        plain = [[getattr(event, name) for event in events] for name in FIELDS if name != "t"]
        times = [round(event.t * 1000) for event in events]
        arrays = [
            pa.array(values, field.type)
            for values, field in zip([times, *plain, *table, more], self.schema, strict=True)
        ]
        self.writer.write_table(pa.Table.from_arrays(arrays, schema=self.schema))


def _names(events: Iterable[Event]) -> list[str]:
    """The metrics that are numbers anywhere, in the order in which they come; no column has two meanings."""
    found: dict[str, None] = {}
    for event in events:
        for name, value in event.metrics.items():
            if name not in found and _is_number(value) and len(found) < COLUMNS:
                found[name] = None
    return [name for name in found if name not in (*FIELDS, MORE)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
