"""What a source delivers: events and items as columnar batches, and a count of what was wrong on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal, Protocol, runtime_checkable

import pyarrow as pa

from streamrec_dist.errors import DataError

#: `time` counts milliseconds since 1970 (UTC); `time` and `rating` are null where the source has none.
#: A source in which some events have a time and others have none reports the latter as problems.
EVENTS = pa.schema(
    [
        pa.field("user", pa.large_string(), nullable=False),
        pa.field("item", pa.large_string(), nullable=False),
        pa.field("time", pa.int64()),
        pa.field("rating", pa.float32()),
    ]
)
#: An absent field is the empty string. `title` .. `description` are the fields of raw.ItemFields.
ITEMS = pa.schema(
    [
        pa.field(name, pa.large_string(), nullable=False)
        for name in ("item", "title", "brand", "categories", "description")
    ]
)
BATCH_ROWS = 65_536
EXAMPLES = 5

OnError = Literal["stop", "skip"]


class Problems:
    """Records that cannot be used: under `stop` the first one is an error, under `skip` they are counted."""

    def __init__(self, on_error: OnError = "stop") -> None:
        self.on_error = on_error
        self.counts: Counter[str] = Counter()
        self.examples: list[str] = []

    def bad(self, kind: str, place: str, message: str) -> None:
        """A record is left out. Raises DataError under `stop`; `place` is "file:line" or names the record."""
        self.caught(kind, DataError(f"{place}: {message}"))

    def caught(self, kind: str, error: DataError) -> None:
        """A record is left out because of `error`, whose message names the place. Raises it under `stop`."""
        if self.on_error == "stop":
            raise error
        self.counts[kind] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(str(error))


class Source(Protocol):
    """Interactions and items in some raw format, read as a stream: a set need not fit into memory."""

    name: str

    def events(self, problems: Problems) -> Iterator[pa.RecordBatch]:
        """Batches of schema EVENTS, in the order of the files."""
        ...

    def items(self, problems: Problems) -> Iterator[pa.RecordBatch]:
        """Batches of schema ITEMS; an item may be described that no event names, and the other way round.

        Of several records of an item the first counts.
        """
        ...


@runtime_checkable
class DescribedSource(Source, Protocol):
    """A source whose item file must describe every item that has events.

    Its batches of events may have one more column, `rest` float64: what is left of a time beyond whole
    milliseconds, which breaks ties between equal `time`.
    """

    def place_of(self, row: int) -> str:
        """The place of the `row`-th event (from 0) for error messages."""
        ...

    def unknown_item(self, row: int, item: str) -> tuple[str, str]:
        """Place and message for the `row`-th event (from 0), whose item is not described."""
        ...


def batches(
    rows: Iterable[Sequence[Any]], schema: pa.Schema, size: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """Rows, each a sequence of values in the order of `schema`, as record batches of `size` rows."""
    rows = iter(rows)
    while chunk := list(islice(rows, size)):
        columns = zip(*chunk, strict=True)
        arrays = [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)]
        yield pa.record_batch(arrays, schema=schema)
