"""The rank of every target under one model: what all measures are made from, kept so that models can be compared."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streamrec_dist.data.dataset import Dataset
from streamrec_dist.data.parquet import read_parquet, write_parquet
from streamrec_dist.data.split import training_part
from streamrec_dist.data.strings import Strings
from streamrec_dist.errors import DataError
from streamrec_dist.json_file import first_problem

_ABOUT = b"streamrec_dist"


class _Said(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class Decoding(_Said):
    """How a result was decoded (`decoding_of`)."""

    thoughts: Literal["none", "greedy", "sampled", "beam"]
    samples: int | None
    beam: int


class _About(_Said):
    """What every file says of its ranks; a program may add more."""

    run: str
    stage: str
    split: str
    masked: bool
    decoding: Decoding | None
    data: str
    depth: int
    popularity_quartiles: Annotated[list[int], Field(min_length=3, max_length=3)]


COLUMNS = {
    "user": pa.large_string(),
    "item": pa.large_string(),
    "position": pa.int32(),
    "rank": pa.int32(),
    "history_length": pa.int32(),
    "popularity": pa.int32(),
}


@dataclass(frozen=True, eq=False)
class TargetRanks:
    """n targets, their ranks, and `about`, which says whose ranks they are (the keys of _About).

    `users` and `items` are original ids. All arrays are int64 [n]: `positions` count from 0 in the user's
    sequence; `ranks` from 1, 0 is a miss: not among the `depth` items that the model ranks, or without a score;
    `history_lengths` are the events before the target; `popularity` is how often the training part has it.
    """

    users: Strings
    items: Strings
    positions: np.ndarray
    ranks: np.ndarray
    history_lengths: np.ndarray
    popularity: np.ndarray
    about: dict[str, Any]

    @classmethod
    def of(cls, ds: Dataset, rows: np.ndarray, ranks: np.ndarray, about: dict[str, Any]) -> TargetRanks:
        """The `ranks` [n] that any model gives the targets of rows [n, 2] (user, position)."""
        numbers, positions = rows[:, 0], rows[:, 1]
        targets = ds.items[ds.offsets[numbers] + positions]
        counts = np.bincount(training_part(ds)[0], minlength=ds.n_items)
        return cls(
            users=Strings.of(ds.user_ids).take(numbers),
            items=Strings.of(ds.item_ids).take(targets),
            positions=positions,
            ranks=ranks.astype(np.int64),
            history_lengths=positions,
            popularity=counts[targets],
            about={**about, "data": ds.content_hash, "popularity_quartiles": quartiles(counts)},
        )

    def take(self, places: np.ndarray) -> TargetRanks:
        """The targets at `places` int64 [k], in that order."""
        return replace(
            self,
            users=self.users.take(places),
            items=self.items.take(places),
            positions=self.positions[places],
            ranks=self.ranks[places],
            history_lengths=self.history_lengths[places],
            popularity=self.popularity[places],
        )

    def __len__(self) -> int:
        return len(self.ranks)

    @cached_property
    def user_numbers(self) -> np.ndarray:
        """The same number for the targets of one user: int64 [n]."""
        encoded = pc.dictionary_encode(self.users.array).combine_chunks()
        return encoded.indices.to_numpy().astype(np.int64)

    @property
    def n_users(self) -> int:
        return int(self.user_numbers.max(initial=-1)) + 1

    @property
    def name(self) -> str:
        """Whose ranks they are, as commands name it: RUN:STAGE."""
        return f"{self.about['run']}:{self.about['stage']}"


def quartiles(counts: np.ndarray) -> list[int]:
    """The quartiles of the counts [items] of the items that occur in training: three counts.

    Items of one count are in one quarter, whatever their numbers.
    """
    seen = counts[counts > 0]
    if len(seen) == 0:
        return [0, 0, 0]
    return np.quantile(seen, [0.25, 0.5, 0.75], method="inverted_cdf").astype(int).tolist()


def save_ranks(path: Path, ranks: TargetRanks) -> None:
    """Write a Parquet file with the columns COLUMNS and, in its schema's metadata, `about` as JSON.

    Readers see the old or the new file, never a part. Raises DataError where it cannot be written.
    """
    columns = [
        ranks.users.array,
        ranks.items.array,
        ranks.positions,
        ranks.ranks,
        ranks.history_lengths,
        ranks.popularity,
    ]
    schema = pa.schema(COLUMNS, metadata={_ABOUT: json.dumps(ranks.about).encode()})
    arrays = [
        pa.chunked_array([pa.array(column.astype(np.int32))]) if isinstance(column, np.ndarray) else column
        for column in columns
    ]
    with suppress(OSError):  # what is wrong with the folder, writing the file says
        path.parent.mkdir(parents=True, exist_ok=True)
    write_parquet(path, pa.Table.from_arrays(arrays, schema=schema))


def load_ranks(path: Path) -> TargetRanks:
    """Ranks from a file of `save_ranks`.

    Raises DataError naming the file when it is missing or damaged, or is no such file.
    """
    table = read_parquet(path)
    about = _about(table, path)
    for name, kind in COLUMNS.items():
        if table.column_names.count(name) != 1 or table.schema.field(name).type != kind:
            raise DataError(f"{path}: expected a column {name} of {kind}, as `evaluate` writes it")
        if table[name].null_count:
            raise DataError(f"{path}: column {name} has gaps; evaluate again")
    numbers = {name: table[name].to_numpy().astype(np.int64) for name in list(COLUMNS)[2:]}
    if len(table) == 0 or min(column.min() for column in numbers.values()) < 0:
        raise DataError(f"{path}: holds no targets, or a number below 0; evaluate again")
    return TargetRanks(
        users=Strings(table["user"]),
        items=Strings(table["item"]),
        positions=numbers["position"],
        ranks=numbers["rank"],
        history_lengths=numbers["history_length"],
        popularity=numbers["popularity"],
        about=about,
    )


def _about(table: pa.Table, path: Path) -> dict[str, Any]:
    try:
        return _About.model_validate_json((table.schema.metadata or {}).get(_ABOUT, b"{}")).model_dump()
    except ValidationError as error:
        raise DataError(
            f"{path}: its metadata are not what `evaluate` writes to results/: {first_problem(error)}"
        ) from None
