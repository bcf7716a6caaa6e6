"""The catalogue: every item's semantic id, and the trie of all ids that decoding walks along."""

from __future__ import annotations

import copy
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from streamrec_dist.errors import DataError
from streamrec_dist.tokens import FIRST_CODE


class Catalogue:
    """Item <-> semantic id, as the trie over all ids in flat sorted tensors.

    Nodes of depth d (0 = root, m = items) are numbered in lexicographic order of their codes, so the children
    of a node are consecutive, and those of node i end where those of node i + 1 begin:

        children_start[d]   [nodes of depth d, + 1], for d in 0..m-1
        child_code[d]       [nodes of depth d + 1], the code on the edge into each
        leaf_item           [n_items], the item of each node of depth m
        max_children[d]     the most children that a node of depth d has

    The tables are int16, int32 or int64, the narrowest that holds their values; what is looked up in them comes
    back as int64, the type of indices.

    Raises DataError naming the items when `codes` is empty, repeats an id, or leaves 0..codes_per_level-1.
    """

    def __init__(self, codes: np.ndarray | Tensor, codes_per_level: int) -> None:
        array = np.asarray(codes)
        _check_shape_and_range(array, codes_per_level)
        self.n_items, self.levels = array.shape
        self.codes_per_level = codes_per_level
        # Ids are sorted as int64 keys.
        if codes_per_level**self.levels > 2**63 - 1:
            raise DataError(
                f"{self.levels} levels of {codes_per_level} codes give more ids than fit in 64 bits; "
                "use fewer items.levels or fewer items.codes"
            )
        # torch sorts them faster than numpy.
        keys, order = (found.numpy() for found in torch.from_numpy(_pack(array, codes_per_level)).sort())
        _check_unique(keys, order, array)
        self.leaf_item = torch.from_numpy(order.astype(_narrowest(self.n_items)))
        del order
        self._build_levels(keys)

    def _build_levels(self, keys: np.ndarray) -> None:
        """Fill the trie from the leaves up; `keys` int64 [n_items] are the packed ids, ascending."""
        self.children_start: list[Tensor] = []
        self.child_code: list[Tensor] = []
        self.max_children: list[int] = []
        code_type, index_type = _narrowest(self.codes_per_level), _narrowest(self.n_items + 1)
        for _ in range(self.levels):
            parents, codes = np.divmod(keys, self.codes_per_level)
            first = np.flatnonzero(np.concatenate([[True], parents[1:] != parents[:-1]]))
            start = np.append(first, len(keys))
            self.child_code.insert(0, torch.from_numpy(codes.astype(code_type)))
            self.children_start.insert(0, torch.from_numpy(start.astype(index_type)))
            self.max_children.insert(0, int(np.diff(start).max()))
            keys = parents[first]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.leaf_item.device

    @property
    def codes(self) -> Tensor:
        """The semantic id of each item, int64 [n_items, m], read off the trie."""
        codes = torch.empty((self.n_items, self.levels), dtype=torch.long, device=self.device)
        codes[self.leaf_item.long()] = self.codes_of_leaves(torch.arange(self.n_items, device=self.device))
        return codes

    @cached_property
    def items_by_code(self) -> Tensor:
        """How many items have each code at its level, int64 [levels * codes_per_level]."""
        codes = self.codes + torch.arange(self.levels, device=self.device) * self.codes_per_level
        counts = codes.new_zeros(self.levels * self.codes_per_level)
        return counts.scatter_add_(0, codes.flatten(), torch.ones_like(codes).flatten())

    def nodes(self, depth: int) -> int:
        """How many nodes there are of a depth 0..m."""
        return len(self.child_code[depth - 1]) if depth else 1

    def to(self, device: str | torch.device) -> Catalogue:
        """One whose tensors are on `device`: itself where they are there already."""
        if torch.device(device) == self.device:
            return self
        moved = copy.copy(self)
        moved.__dict__.pop("items_by_code", None)
        moved.leaf_item = self.leaf_item.to(device)
        moved.children_start = [tensor.to(device) for tensor in self.children_start]
        moved.child_code = [tensor.to(device) for tensor in self.child_code]
        return moved

    def children(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The children of nodes of one depth: codes, child nodes and a mask, each [..., max_children[depth]].

        `nodes` int64 [...] of depth `depth` (0..m-1). Children come in ascending code order; where the mask is
        False the entry is padding (code 0, node 0).
        """
        codes, first, valid = self.child_codes(depth, nodes)
        slots = torch.arange(self.max_children[depth], device=self.device)
        return codes * valid, (first.unsqueeze(-1) + slots) * valid, valid

    def child_codes(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same with less memory: codes, the first child node int64 [...] and a mask.

        The other children follow the first. Where the mask is False the code is that of some other node.
        """
        first, end = self._range(depth, nodes)
        slots = torch.arange(self.max_children[depth], device=self.device)
        valid = slots < (end - first).unsqueeze(-1)
        places = (first.unsqueeze(-1) + slots).clamp_max_(self.nodes(depth + 1) - 1)
        return self.child_code[depth][places].long(), first, valid

    def following(self, depth: int, nodes: Tensor) -> Tensor:
        """Which codes lead to a child of `nodes` int64 [...] of one depth, bool [..., codes_per_level]."""
        codes, _, valid = self.child_codes(depth, nodes)
        allowed = torch.zeros((*nodes.shape, self.codes_per_level), dtype=torch.uint8, device=nodes.device)
        # Padding may repeat a child's code: `amax` keeps the child's 1.
        return allowed.scatter_reduce(-1, codes, valid.byte(), "amax").bool()

    def child(self, depth: int, nodes: Tensor, codes: Tensor) -> Tensor:
        """The child int64 [...] that `codes` int64 [...] lead to from `nodes` int64 [...] of one depth.

        -1 where there is none, and from a node -1. Found by bisection, so that no list of children is made.
        """
        low, end = self._range(depth, nodes.clamp_min(0))
        table, high, last = self.child_code[depth], end, self.nodes(depth + 1) - 1
        for _ in range(self.max_children[depth].bit_length()):
            middle = (low + high) // 2
            before = (table[middle.clamp_max(last)] < codes) & (middle < high)
            low, high = torch.where(before, middle + 1, low), torch.where(before, high, middle)
        found = (table[low.clamp_max(last)] == codes) & (low < end) & (nodes >= 0)
        return torch.where(found, low, -1)

    def descend(self, depth: int, nodes: Tensor, tokens: Tensor) -> Tensor:
        """The same by code `tokens` int64 [...] of level `depth`."""
        return self.child(depth, nodes, tokens - FIRST_CODE - depth * self.codes_per_level)

    def first_leaves(self, depth: int, nodes: Tensor) -> Tensor:
        """How many leaves lie before the first of `nodes` int64 [...] of a depth 0..m, int64 [...].

        Nodes beyond the last one have all leaves before them.
        """
        nodes = nodes.clamp_max(self.nodes(depth))
        for level in range(depth, self.levels):
            nodes = self.children_start[level][nodes].long()
        return nodes

    def codes_of_leaves(self, leaves: Tensor) -> Tensor:
        """The semantic ids int64 [..., m] of leaves int64 [...]."""
        codes, nodes = [], leaves
        for depth in reversed(range(self.levels)):
            codes.append(self.child_code[depth][nodes].long())
            start = self.children_start[depth]
            nodes = torch.searchsorted(start, nodes.to(start.dtype), right=True) - 1
        return torch.stack(codes[::-1], dim=-1)

    def leaf_items(self, nodes: Tensor) -> Tensor:
        """Item ids int64 [...] of nodes of depth m."""
        return self.leaf_item[nodes].long()

    def item_of(self, codes: Tensor) -> Tensor:
        """Item ids int64 [...] of semantic ids [..., m]; -1 where the id is of no item."""
        node = torch.zeros(codes.shape[:-1], dtype=torch.long, device=codes.device)
        for depth in range(self.levels):
            node = self.child(depth, node, codes[..., depth])
        return torch.where(node >= 0, self.leaf_items(node), -1)

    def item_of_tokens(self, tokens: Tensor) -> Tensor:
        """Item ids int64 [...] of code tokens [..., m]; -1 where they are not a valid item.

        The token of code c at level j is 2 + j * codes_per_level + c. Valid means: levels in order and the id in
        the catalogue.
        """
        levels = torch.arange(self.levels, device=tokens.device)
        return self.item_of(tokens - FIRST_CODE - levels * self.codes_per_level)

    def _range(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """The first child of each node and the one behind its last, int64 [...]."""
        start = self.children_start[depth]
        return start[nodes].long(), start[nodes + 1].long()


def _narrowest(count: int) -> type[np.signedinteger]:
    """The narrowest type of the tables that holds 0..count - 1."""
    return next(kind for kind in (np.int16, np.int32, np.int64) if count - 1 <= np.iinfo(kind).max)


def _pack(codes: np.ndarray, codes_per_level: int) -> np.ndarray:
    """One key int64 [n] per id [n, m]; keys sort as the ids do."""
    keys = codes[:, 0].astype(np.int64)
    for level in range(1, codes.shape[1]):
        keys *= codes_per_level
        keys += codes[:, level].astype(np.int64)
    return keys


def _check_shape_and_range(codes: np.ndarray, codes_per_level: int) -> None:
    if codes.ndim != 2 or codes.shape[1] == 0:
        raise DataError(f"semantic ids must be a table [items, levels], got shape {list(codes.shape)}")
    if len(codes) == 0:
        raise DataError("the catalogue is empty: it needs at least one item")
    if codes.min() < 0 or codes.max() >= codes_per_level:
        outside = np.flatnonzero(((codes < 0) | (codes >= codes_per_level)).any(axis=1))
        item = int(outside[0])
        raise DataError(
            f"item {item} has semantic id {codes[item].tolist()} with a code outside 0..{codes_per_level - 1} "
            f"({len(outside)} such items); were the ids made with another items.codes?"
        )


def _check_unique(sorted_keys: np.ndarray, order: np.ndarray, codes: np.ndarray) -> None:
    repeats = np.flatnonzero(sorted_keys[1:] == sorted_keys[:-1])
    if len(repeats):
        first, second = sorted(order[repeats[0] : repeats[0] + 2].tolist())
        raise DataError(
            f"items {first} and {second} share the semantic id {codes[first].tolist()} "
            f"({len(repeats)} repeats in all); make the ids again with the tokenize stage"
        )
