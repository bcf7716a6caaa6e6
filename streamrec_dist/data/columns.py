"""Columns of numbers on disk: written piece by piece, then read through a memory map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


class Column:
    """One column of fixed type in a file of its own, for appending."""

    def __init__(self, path: Path, dtype: Any):
        self.path, self.dtype = path, np.dtype(dtype)
        self._file = path.open("wb")

    def append(self, values: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(values, dtype=self.dtype).data)

    def finish(self) -> np.ndarray:
        """All that was appended, memory-mapped and writable."""
        self._file.close()
        if self.path.stat().st_size == 0:
            return np.zeros(0, dtype=self.dtype)
        return np.memmap(self.path, dtype=self.dtype, mode="r+")


def new_column(path: Path | None, dtype: Any, length: int) -> np.ndarray:
    """A column of `length` zeros, memory-mapped, or in memory without a path."""
    if path is None or not length:
        return np.zeros(length, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="w+", shape=(length,))
