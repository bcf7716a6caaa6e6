"""The items of a dataset in their final order, with titles and texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from streamrec_dist.data.events import Problems, Source
from streamrec_dist.data.ids import Numbering
from streamrec_dist.data.raw import ItemFields, clean_text
from streamrec_dist.data.strings import Strings

LISTED = pa.schema([pa.field(name, pa.large_string()) for name in ("item", "title", "text")])


@dataclass(frozen=True, eq=False)
class ItemList:
    """`codes` int64 [n]: the number that each item has in the events of the source.

    `described`, `with_text` and `with_field`: whether the source has a record of it, a title or description, and
    any field at all (bool [n]). Items with a record come in the order of the source, then the others.
    """

    codes: np.ndarray
    ids: Strings
    titles: Strings
    texts: Strings
    described: np.ndarray
    with_text: np.ndarray
    with_field: np.ndarray
    described_twice: int = 0

    def __len__(self) -> int:
        return len(self.codes)

    def select(self, mask: np.ndarray) -> ItemList:
        """The items where `mask` (bool [n]) is true."""
        if mask.all():
            return self
        places = np.flatnonzero(mask)
        return ItemList(
            self.codes[mask],
            self.ids.take(places),
            self.titles.take(places),
            self.texts.take(places),
            self.described[mask],
            self.with_text[mask],
            self.with_field[mask],
            self.described_twice,
        )

    def notes(self) -> dict[str, int]:
        return {
            "items_without_text": int((~self.with_text).sum()),
            "items_without_any_field": int((~self.with_field).sum()),
            "items_without_record": int((~self.described).sum()),
            "items_described_twice": self.described_twice,
        }


def list_items(
    source: Source, problems: Problems, numbering: Numbering, used: np.ndarray, only_used: bool, folder: Path
) -> ItemList:
    """The items that `source` describes and those with events, or only the latter.

    `used` bool [numbered items]: which have events. Of several records of an item the first counts.
    """
    seen = np.zeros(len(used), dtype=bool)
    codes: list[np.ndarray] = []
    flags: list[np.ndarray] = []
    twice = 0
    path = folder / "items.listed"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, LISTED) as writer:
        for batch in source.items(problems):
            numbers = numbering.numbers(batch.column("item")).astype(np.int64)
            grown = max(len(seen), int(numbers.max(initial=-1)) + 1)
            seen = np.concatenate([seen, np.zeros(grown - len(seen), dtype=bool)])
            fresh = np.zeros(len(numbers), dtype=bool)
            fresh[np.unique(numbers, return_index=True)[1]] = True
            fresh &= ~seen[numbers]
            twice += int((~fresh).sum())
            seen[numbers] = True
            if only_used:
                fresh[fresh] = np.append(used, np.zeros(grown - len(used), dtype=bool))[numbers[fresh]]
            rows = batch.filter(pa.array(fresh))
            written, has = _described(rows)
            writer.write_batch(written)
            codes.append(numbers[fresh])
            flags.append(has)
        rest = np.flatnonzero(used & ~seen[: len(used)])
        if len(rest):
            _write_undescribed(writer, numbering.strings().take(rest))
        codes.append(rest)
        flags.append(np.zeros((len(rest), 2), dtype=bool))
    with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
        table = reader.read_all()
    every, has = np.concatenate(codes), np.concatenate(flags)
    described = np.arange(len(every)) < len(every) - len(rest)
    ids, titles, texts = (Strings(table.column(name)) for name in LISTED.names)
    return ItemList(every, ids, titles, texts, described, has[:, 0], has[:, 1], twice)


def _described(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, np.ndarray]:
    """Ids, titles and texts of a batch of ITEMS; and whether each has a title or description, and any field."""
    titles, texts, has = [], [], []
    for fields in _fields(batch):
        titles.append(fields.title)
        texts.append(fields.text())
        has.append((bool(fields.title or fields.description), fields != ItemFields()))
    arrays = [batch.column("item"), pa.array(titles, pa.large_string()), pa.array(texts, pa.large_string())]
    return pa.record_batch(arrays, schema=LISTED), np.array(has, dtype=bool).reshape(-1, 2)


def _fields(batch: pa.RecordBatch) -> Iterator[ItemFields]:
    names = ("title", "brand", "categories", "description")
    for row in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
        yield ItemFields(*(clean_text(text) for text in row))


def _write_undescribed(writer: pa.RecordBatchFileWriter, ids: Strings) -> None:
    empty = pa.array([""] * len(ids), pa.large_string())
    writer.write_table(pa.table([ids.array, empty, empty], schema=LISTED))
