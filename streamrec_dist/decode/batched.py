"""Rows of a corpus decoded in batches of similar length, of few static shapes where graphs are captured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from streamrec_dist.data.batches import history_lengths, in_length_batches
from streamrec_dist.decode.graphs import Graphed
from streamrec_dist.materials import Materials

#: Lengths that histories are padded to, evenly spaced up to max_history: each costs one graph.
BUCKETS = 5


class BatchedDecode:
    """`function(history, places, below, *arguments)` on rows of a corpus, `batch` of similar length at a time.

    history is int64 [n, S] on `device`, padded with 0; places and below are its evidence (`Materials.prompts`); the
    function returns columns with an entry a row. Where shapes are `static`, S is that of a bucket and n a power of
    two: the last row stands in for those that lack, and what becomes of it is cut off. Elsewhere nothing is padded
    beyond the longest row of the batch.
    """

    def __init__(
        self,
        materials: Materials,
        device: torch.device,
        batch: int,
        function: Callable[..., dict[str, Tensor]],
    ):
        self.materials, self.corpus, self.batch = materials, materials.corpus, batch
        self.graphed = Graphed(function, device)
        self.static = self.graphed.captures

    def __call__(
        self, rows: np.ndarray, arguments: Callable[[np.ndarray], Sequence[np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """The columns of rows int64 [n, 2] (user, position), in that order.

        `arguments` gives those of some row numbers int64, each [len(numbers), ...]. While it prepares a batch the
        device decodes the batches before; the host waits once, when the last has been given out.
        """

        def decode(numbers: np.ndarray) -> dict[str, np.ndarray]:
            given = self._filled(numbers) if self.static and len(numbers) else numbers
            columns = self.graphed(*self._prompts(rows[given]), *arguments(given))
            return {name: column[: len(numbers)] for name, column in columns.items()}

        return in_length_batches(history_lengths(self.corpus, rows), self.batch, decode, self.graphed.wait)

    def _filled(self, numbers: np.ndarray) -> np.ndarray:
        """Row numbers, up to a power of two of them."""
        size = min(self.batch, 1 << (len(numbers) - 1).bit_length())
        return np.pad(numbers, (0, size - len(numbers)), mode="edge")

    def _prompts(self, rows: np.ndarray) -> list[np.ndarray]:
        tokens, *evidence = self.materials.prompts(rows)
        if not self.static or not len(rows):
            return [tokens, *evidence]
        longest = tokens.shape[1] // self.corpus.levels
        edge = bucket(longest, self.corpus.max_history) * self.corpus.levels
        return [np.pad(tokens, ((0, 0), (0, edge - tokens.shape[1]))), *evidence]


def bucket(items: int, max_history: int) -> int:
    """The length in items that a history of `items` <= max_history items is padded to."""
    edges = (-(-max_history * number // BUCKETS) for number in range(1, BUCKETS + 1))
    return next(edge for edge in edges if edge >= items)
