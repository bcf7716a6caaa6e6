"""The catalogue: every item's semantic id, and the trie of all ids that decoding walks along."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from streamrec_dist.errors import DataError
from streamrec_dist.tokens import FIRST_CODE


class Catalogue:
    """Item <-> semantic id, and the trie over all ids, as flat tensors.

    Nodes of depth d (0 = root, m = items) are numbered in lexicographic order of their codes, so the children
    of a node are consecutive:

        children_start[d], children_count[d]   int64 [nodes of depth d], for d in 0..m-1
        child_code[d]                          int64 [nodes of depth d + 1], the code on the edge into each
        leaf_item                              int64 [n_items], the item of each node of depth m
        max_children[d]                        the largest children_count of depth d
        codes                                  int64 [n_items, m], the semantic id of each item

    Raises DataError naming the items when `codes` is empty, repeats an id, or leaves 0..codes_per_level-1.
    """

    def __init__(self, codes: np.ndarray | Tensor, codes_per_level: int) -> None:
        array = np.array(codes, dtype=np.int64)
        _check_shape_and_range(array, codes_per_level)
        self.n_items, self.levels = array.shape
        self.codes_per_level = codes_per_level
        # `item_of` packs an id into one int64 key.
        if codes_per_level**self.levels > 2**63 - 1:
            raise DataError(
                f"{self.levels} levels of {codes_per_level} codes give more ids than fit in 64 bits; "
                "use fewer items.levels or fewer items.codes"
            )
        keys = _pack(torch.from_numpy(array), codes_per_level)
        sorted_keys, order = torch.sort(keys)
        _check_unique(sorted_keys, order, array)
        self.codes = torch.from_numpy(array)
        self.leaf_item = order
        self._sorted_keys = sorted_keys
        self._build_levels(array[order.numpy()])

    def _build_levels(self, rows: np.ndarray) -> None:
        """Fill the trie from ids in lexicographic order, int64 [n_items, m]."""
        self.children_start: list[Tensor] = []
        self.children_count: list[Tensor] = []
        self.child_code: list[Tensor] = []
        self.max_children: list[int] = []
        opens_node = np.zeros(len(rows), dtype=bool)
        opens_node[0] = True
        parent_of_row = np.zeros(len(rows), dtype=np.int64)
        for depth in range(self.levels):
            column = rows[:, depth]
            opens_node[1:] |= column[1:] != column[:-1]
            first_rows = np.flatnonzero(opens_node)
            count = np.bincount(parent_of_row[first_rows])
            self.children_count.append(torch.from_numpy(count))
            self.children_start.append(torch.from_numpy(np.cumsum(count) - count))
            self.child_code.append(torch.from_numpy(column[first_rows]))
            self.max_children.append(int(count.max()))
            parent_of_row = np.cumsum(opens_node) - 1

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.leaf_item.device

    def to(self, device: str | torch.device) -> Catalogue:
        """A copy whose tensors are on `device`."""
        moved = copy.copy(self)
        for name in ("codes", "leaf_item", "_sorted_keys"):
            setattr(moved, name, getattr(self, name).to(device))
        for name in ("children_start", "children_count", "child_code"):
            setattr(moved, name, [tensor.to(device) for tensor in getattr(self, name)])
        return moved

    def children(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The children of nodes of one depth: codes, child nodes and a mask, each [..., max_children[depth]].

        `nodes` int64 [...] of depth `depth` (0..m-1). Children come in ascending code order; where the mask is
        False the entry is padding (code 0, node 0).
        """
        slots = torch.arange(self.max_children[depth], device=self.device)
        valid = slots < self.children_count[depth][nodes].unsqueeze(-1)
        child_nodes = (self.children_start[depth][nodes].unsqueeze(-1) + slots) * valid
        return self.child_code[depth][child_nodes] * valid, child_nodes, valid

    def leaf_items(self, nodes: Tensor) -> Tensor:
        """Item ids int64 [...] of nodes of depth m."""
        return self.leaf_item[nodes]

    def item_of(self, codes: Tensor) -> Tensor:
        """Item ids int64 [...] of semantic ids [..., m]; -1 where the id is of no item."""
        in_range = ((codes >= 0) & (codes < self.codes_per_level)).all(-1)
        keys = _pack(codes.long().clamp(0, self.codes_per_level - 1), self.codes_per_level)
        places = torch.searchsorted(self._sorted_keys, keys).clamp_max(self.n_items - 1)
        found = in_range & (self._sorted_keys[places] == keys)
        return torch.where(found, self.leaf_item[places], -1)

    def item_of_tokens(self, tokens: Tensor) -> Tensor:
        """Item ids int64 [...] of code tokens [..., m]; -1 where they are not a valid item.

        The token of code c at level j is 2 + j * codes_per_level + c. Valid means: levels in order and the id in
        the catalogue.
        """
        levels = torch.arange(self.levels, device=tokens.device)
        return self.item_of(tokens - FIRST_CODE - levels * self.codes_per_level)


def _pack(codes: Tensor, codes_per_level: int) -> Tensor:
    """One int64 key [...] per id [..., m]; keys sort as the ids do."""
    key = codes[..., 0]
    for level in range(1, codes.shape[-1]):
        key = key * codes_per_level + codes[..., level]
    # searchsorted wants its own contiguous memory, and m = 1 would otherwise return a view.
    return key.contiguous()


def _check_shape_and_range(codes: np.ndarray, codes_per_level: int) -> None:
    if codes.ndim != 2 or codes.shape[1] == 0:
        raise DataError(f"semantic ids must be a table [items, levels], got shape {list(codes.shape)}")
    if len(codes) == 0:
        raise DataError("the catalogue is empty: it needs at least one item")
    outside = np.flatnonzero(((codes < 0) | (codes >= codes_per_level)).any(axis=1))
    if len(outside):
        item = int(outside[0])
        raise DataError(
            f"item {item} has semantic id {codes[item].tolist()} with a code outside 0..{codes_per_level - 1} "
            f"({len(outside)} such items); were the ids made with another items.codes?"
        )


def _check_unique(sorted_keys: Tensor, order: Tensor, codes: np.ndarray) -> None:
    repeats = (sorted_keys[1:] == sorted_keys[:-1]).nonzero().flatten()
    if len(repeats):
        first, second = sorted(order[repeats[0] : repeats[0] + 2].tolist())
        raise DataError(
            f"items {first} and {second} share the semantic id {codes[first].tolist()} "
            f"({len(repeats)} repeats in all); make the ids again with the tokenize stage"
        )
