"""Keys and values of decoded tokens: static caches that the rows of a prompt share and see through masks."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor


class Columns:
    """Keys and values of decoded tokens, which the rows of a batch entry share: static, appended to."""

    def __init__(self, layers: list[Tensor]):
        self.layers = layers  # each [2, B, heads, capacity, d_head]: keys, then values
        self.used = 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values [B, heads, R, d_head]; all so far, each [B * heads, used + R, d_head]."""
        end = self.used + k.shape[2]
        self._reserve(end)
        stored = self.layers[layer]
        stored[0, :, :, self.used : end] = k
        stored[1, :, :, self.used : end] = v
        keys, values = stored.flatten(1, 2)[:, :, :end]
        return keys, values

    def apart(self, some: Tensor, sees: Tensor, length: int, room: int) -> Columns:
        """Columns of each row of the batch entries `some` int64 alone, with `room` for more.

        `sees` bool [1 or B, R, C]: the `length` columns that each row sees. The copy has (entries * R) entries.
        """
        own = copy.copy(self)
        # The seen ones first, in their order: their number is known, so nothing waits for a device.
        index = (~sees).byte().argsort(dim=-1, stable=True)[..., :length]
        index = index.expand(self.layers[0].shape[1], -1, -1)[some]
        entry = some[:, None, None]
        own.layers = []
        for stored in self.layers:
            chosen = stored.permute(1, 3, 0, 2, 4)[entry, index].flatten(0, 1)
            shape = (2, len(chosen), stored.shape[2], length + room, stored.shape[4])
            copied = torch.empty(shape, dtype=stored.dtype, device=stored.device)
            copied[:, :, :, :length] = chosen.permute(2, 0, 3, 1, 4)
            own.layers.append(copied)
        own.used = length
        return own

    def _reserve(self, columns: int) -> None:
        capacity = self.layers[0].shape[3]
        if columns > capacity:
            self.layers = [
                F.pad(stored, (0, 0, 0, max(columns, 2 * capacity) - capacity)) for stored in self.layers
            ]
