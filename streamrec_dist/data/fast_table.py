"""Tables of events that hold nothing odd, read by polars in streaming mode.

A first pass looks the whole file over; the second yields it. Whatever the first pass cannot vouch for is left to
the careful reader of tables.py, which reads record by record and can say where the trouble is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from streamrec_dist.data.events import EVENTS
from streamrec_dist.data.tables import Table
from streamrec_dist.data.timestamps import PER_SECOND, Clock, Tally, span

CHUNK_BYTES = 1 << 24
CHUNK_ROWS = 1 << 19
#: Dates and times in the one form that polars and the careful reader understand alike.
DATE = (
    r"^\d{4}-\d{2}-\d{2}"
    r"([T ]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)?)?$"
)


@dataclass(frozen=True)
class FastTable:
    """`frame` has the columns user, item and, where there are any, time (a number in `clock`'s unit) and rating."""

    frame: pl.LazyFrame
    clock: Clock | None

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Batches of EVENTS, with the column `rest` where times are finer than milliseconds."""
        for part in self.frame.collect_batches(
            chunk_size=CHUNK_ROWS, maintain_order=True, engine="streaming"
        ):
            rows = len(part)
            columns = {name: part[name].to_arrow().cast(pa.large_string()) for name in ("user", "item")}
            columns |= {"time": pa.nulls(rows, pa.int64()), "rating": pa.nulls(rows, pa.float32())}
            if "rating" in part.columns:
                columns["rating"] = part["rating"].to_arrow()
            rest = None
            if self.clock is not None:
                missing = part["time"].is_null().to_numpy()
                whole, rest = self.clock.split(part["time"].fill_null(0).to_numpy())
                columns["time"] = pa.array(whole, mask=missing)
            schema = EVENTS
            if rest is not None:
                columns["rest"] = pa.array(rest)
                schema = EVENTS.append(pa.field("rest", pa.float64()))
            yield pa.record_batch([columns[name] for name in schema.names], schema=schema)


@dataclass(frozen=True)
class Reading:
    """A way to read a column of times as a number, in `unit` where it is known. `given`: whether there is a time."""

    number: pl.Expr
    given: pl.Expr
    unit: str | None = None
    real: bool = False

    def counts(self) -> dict[str, pl.Expr]:
        """What Tally counts, and whether there are times that cannot be read this way."""
        counts = {"numbers": self.number.is_not_null().sum()}
        for unit in PER_SECOND:
            low, high = span(unit)
            counts[f"within {unit}"] = ((self.number >= 0) & (self.number < high)).sum()
            counts[f"recent {unit}"] = ((self.number >= low) & (self.number < high)).sum()
        return {**counts, "unread": (self.number.is_null() & self.given).any()}

    def tally(self, found: dict[str, Any]) -> Tally:
        """The Tally of the values of `counts`."""
        return Tally(
            numbers=found["numbers"],
            real=self.real,
            recent={unit: found[f"recent {unit}"] for unit in PER_SECOND},
            within={unit: found[f"within {unit}"] for unit in PER_SECOND},
        )


def fast_table(table: Table) -> FastTable | None:
    """The events of `table`, None where a record may be bad or the file needs a closer look."""
    try:
        return _vet(table)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        # The careful reader meets the same trouble and names its place. A panic is how damaged Parquet may show.
        return None


def _vet(table: Table) -> FastTable | None:
    commas = None
    if table.path.suffix == ".parquet":
        frame = pl.scan_parquet(table.path, glob=False)
    else:
        commas = _plain_commas(table.path)
        if commas is None:
            return None
        names = list(table.header)
        frame = pl.scan_csv(
            table.path,
            infer_schema=False,
            empty_string_is_null=False,
            glob=False,
            with_column_names=lambda _: names,
        )
    types = frame.collect_schema()
    if not all(
        types[name].is_integer() or types[name] in (pl.String, pl.Categorical) for name in ("user", "item")
    ):
        return None
    ids = {name: pl.col(name).cast(pl.String) for name in ("user", "item")}
    checks: dict[str, Any] = {"rows": pl.len()}
    checks |= {name: ids[name].is_null().any() | (ids[name] == "").any() for name in ids}
    if "rating" in table.columns:
        ids["rating"] = _rating(types["rating"])
        given = pl.col("rating").is_not_null() & (pl.col("rating").cast(pl.String, strict=False) != "")
        checks["rating"] = (ids["rating"].is_null() & given).any()
    readings: Sequence[Reading | None] = [None]
    if "timestamp" in table.columns:
        readings = _readings(types["timestamp"])
    # Nearly all times are whole numbers, and to read them as dates takes longest: one try a pass.
    for reading in readings:
        counts = reading.counts() if reading else {}
        found = frame.select(**checks, **counts).collect(engine="streaming").row(0, named=True)
        if found["user"] or found["item"] or found.get("rating"):
            return None
        if commas is not None and commas != (found["rows"] + 1) * (len(table.header) - 1):
            return None
        if reading is None:
            return FastTable(frame.select(**ids), None)
        if not found["unread"]:
            tally = reading.tally(found)
            clock = Clock(reading.unit) if reading.unit else tally.clock()
            return (
                FastTable(frame.select(**ids, time=reading.number), clock) if tally.all_fit(clock) else None
            )
    return None


def _plain_commas(path: Path) -> int | None:
    """How many commas a CSV file has; None where it has quotes, lines that end in a bare CR, or is compressed."""
    if path.suffix != ".csv":
        return None
    commas, last = 0, b""
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            returns = (last[-1:] + chunk).count(b"\r")
            if b'"' in chunk or (
                returns and (last[-1:] + chunk).count(b"\r\n") + chunk.endswith(b"\r") < returns
            ):
                return None
            commas += chunk.count(b",")
            last = chunk
    return None if last.endswith(b"\r") else commas


def _rating(kind: pl.DataType) -> pl.Expr:
    number = pl.col("rating").cast(pl.Float32, strict=False)
    return (
        pl.when(number.is_finite()).then(number)
        if kind.is_numeric() or kind == pl.String
        else pl.lit(None, pl.Float32)
    )


def _readings(kind: pl.DataType) -> list[Reading]:
    """Ways to read a column of times, to be tried in this order; none for a type that needs a closer look."""
    column = pl.col("timestamp")
    given = column.is_not_null()
    if isinstance(kind, pl.Datetime):
        return [Reading(column.cast(pl.Int64), given, kind.time_unit)]
    if kind == pl.Date:
        return [Reading(column.cast(pl.Datetime("ms")).cast(pl.Int64), given, "ms")]
    whole, real = column.cast(pl.Int64, strict=False), column.cast(pl.Float64, strict=False)
    if kind.is_integer():
        return [Reading(whole, given)]
    if kind.is_float():
        return [Reading(real, given, real=True)]
    if kind != pl.String:
        return []
    given = column.str.strip_chars() != ""
    dated = pl.when(column.str.contains(DATE)).then(column)
    utc = dated.str.replace("Z$", "+00:00").str.replace(" ", "T", literal=True)
    moment = pl.coalesce(
        utc.str.to_datetime("%Y-%m-%d", time_unit="us", strict=False),
        utc.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False),
        utc.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="us", strict=False).dt.replace_time_zone(
            None
        ),
    )
    return [
        Reading(whole, given),
        Reading(real, given, real=True),
        Reading(moment.cast(pl.Int64), given, "us"),
    ]
