"""Texts kept as Arrow arrays: a sequence of strings that may be far larger than Python lists allow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

CHUNK = 65_536


class Strings(Sequence[str]):
    """n strings behind Arrow's large_string; nothing becomes a Python object before it is asked for."""

    def __init__(self, array: pa.Array | pa.ChunkedArray):
        """`array` is of type large_string and without nulls; memory-mapped ones stay where they are."""
        self.array = array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])

    @classmethod
    def of(cls, texts: Iterable[str]) -> Strings:
        """From any strings. Raises TypeError for values that are none."""
        return texts if isinstance(texts, cls) else cls(pa.array(texts, type=pa.large_string()))

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Strings: ...
    def __getitem__(self, place: int | slice) -> str | Strings:
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            return (
                Strings(self.array.slice(start, max(stop - start, 0)))
                if step == 1
                else self.take(np.arange(start, stop, step))
            )
        return self.array[int(place)].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), CHUNK):
            yield from self.array.slice(start, CHUNK).to_pylist()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and self.array.equals(Strings.of(other).array)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(repr(text) for text in self[:3])
        return f"Strings([{shown}{', ...' if len(self) > 3 else ''}], {len(self)} in all)"

    def index_of(self, text: str) -> int | None:
        """The first place of `text`, None where it is not among them."""
        place = pc.index(self.array, pa.scalar(text, pa.large_string())).as_py()
        return None if place < 0 else place

    def filled(self) -> float:
        """The share of strings that are not empty, 0 for none at all."""
        return pc.mean(pc.greater(pc.binary_length(self.array), 0).cast(pa.int8())).as_py() or 0.0

    def take(self, places: np.ndarray) -> Strings:
        """The strings at `places`, integers [m]."""
        return Strings(self.array.take(pa.array(places)))

    def buffers(self) -> Iterator[tuple[np.ndarray, memoryview]]:
        """Lengths in bytes, int64 [k], and the UTF-8 bytes of one stretch of strings after the other."""
        for chunk in self.array.chunks:
            for start in range(0, len(chunk), CHUNK):
                part = chunk.slice(start, CHUNK)
                _, offsets, data = part.buffers()
                ends = np.frombuffer(offsets, dtype=np.int64)[part.offset : part.offset + len(part) + 1]
                content: Any = memoryview(data) if data is not None else memoryview(b"")
                yield np.diff(ends), content[ends[0] : ends[-1]]
