"""Collisions: items whose quantised codes are equal, and the two ways to give each an id of its own.

Both walk the items in a seeded random order, so that an id never tells an item's number.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from streamrec_dist.errors import RunError
from streamrec_dist.items.quantizer import ResidualQuantizer


def add_digits(codes: np.ndarray, codes_per_level: int, rng: np.random.Generator) -> np.ndarray:
    """Ids int32 [n, m] from `codes` [n, m - 1]: a last digit tells the items of a collision apart (TIGER).

    Digits of a group of g items are 0..g-1 in random order. Raises RunError when a group has more items than
    `codes_per_level`.
    """
    shuffled = rng.permutation(len(codes))
    group = _group_of(codes)
    by_group = shuffled[np.argsort(group[shuffled], kind="stable")]
    sizes = np.bincount(group)
    if sizes.max() > codes_per_level:
        crowded = np.flatnonzero(group == sizes.argmax())
        raise RunError(
            f"{len(crowded)} items (such as {crowded[:3].tolist()}) share the codes {codes[crowded[0]].tolist()}, "
            f"but a de-duplication digit tells only {codes_per_level} apart"
        )
    digits = np.empty(len(codes), dtype=np.int64)
    digits[by_group] = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.column_stack([codes, digits]).astype(np.int32)


def reassign_last_level(
    quantizer: ResidualQuantizer, latents: Tensor, codes: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Ids int32 [n, m] from colliding `codes` [n, m] and `latents` [n, dim]: the last codes are dealt out anew.

    Within each group of items that share all codes but the last and collide, the last codes are those of the
    assignment with the least total squared distance in which no two items share one (as LC-Rec's uniform
    re-assignment, solved exactly). A group with more items than codes first sends its worst-fitting items to the
    next-nearest codes of the level before. Raises RunError when that has no room either.
    """
    ids = codes.astype(np.int64)
    if ids.shape[1] > 1:
        spread_crowded_groups(quantizer, latents, ids, rng)
    elif len(ids) > quantizer.codebooks.shape[1]:
        raise _no_room(np.arange(len(ids)), quantizer, levels=1)
    changed = (ids[:, :-1] != codes[:, :-1]).any(axis=1)
    for members in _groups(ids[:, :-1], rng):
        last = ids[members, -1]
        if not changed[members].any() and len(np.unique(last)) == len(members):
            continue
        cost = _distances(quantizer, latents, ids, members, level=ids.shape[1] - 1)
        rows, columns = linear_sum_assignment(cost)
        ids[members[rows], -1] = columns
    return ids.astype(np.int32)


def separate(codes: np.ndarray, codes_per_level: int, rng: np.random.Generator) -> np.ndarray:
    """Ids int32 [n, m] from colliding `codes` [n, m] without their codebooks: one item of each collision keeps its
    id, the others get free last codes under the same prefix, both by chance.

    Raises RunError where a prefix has more items than last codes.
    """
    ids = codes.astype(np.int32)
    for members in _groups(ids[:, :-1], rng):
        last = ids[members, -1]
        _, keep = np.unique(last, return_index=True)
        surplus = np.setdiff1d(np.arange(len(members)), keep)
        if len(surplus) == 0:
            continue
        free = rng.permutation(np.setdiff1d(np.arange(codes_per_level), last))
        if len(free) < len(surplus):
            raise RunError(
                f"{len(members)} items (such as {np.sort(members)[:3].tolist()}) share all codes but the last, "
                f"which tells only {codes_per_level} apart"
            )
        ids[members[surplus], -1] = free[: len(surplus)]
    return ids


def spread_crowded_groups(
    quantizer: ResidualQuantizer, latents: Tensor, ids: np.ndarray, rng: np.random.Generator
) -> None:
    """Change the last code but one of ids int64 [n, m], in place, until no group of equal prefixes exceeds the codes.

    The worst-fitting items of a crowded group go to the next-nearest codes that have room. Raises RunError when
    there are more items than these two levels can hold.
    """
    capacity = quantizer.codebooks.shape[1]
    level = ids.shape[1] - 2
    for members in _groups(ids[:, :level], rng):
        sizes = np.bincount(ids[members, level], minlength=capacity)
        if sizes.max() <= capacity:
            continue
        if len(members) > capacity**2:
            raise _no_room(members, quantizer, levels=2)
        distances = _distances(quantizer, latents, ids, members, level)
        for code in np.flatnonzero(sizes > capacity):
            inside = np.flatnonzero(ids[members, level] == code)
            worst_first = inside[np.argsort(-distances[inside, code], kind="stable")]
            for row in worst_first[: len(inside) - capacity]:
                open_codes = np.where(sizes < capacity, distances[row], np.inf)
                chosen = int(open_codes.argmin())
                ids[members[row], level] = chosen
                sizes[chosen] += 1
            sizes[code] = capacity


def _distances(
    quantizer: ResidualQuantizer, latents: Tensor, ids: np.ndarray, members: np.ndarray, level: int
) -> np.ndarray:
    """Distances [members, codes] of the members' residuals at `level` to its codewords."""
    rows = torch.from_numpy(members).to(latents.device)
    before = torch.from_numpy(ids[members, :level]).to(latents.device)
    with torch.no_grad():
        residual = quantizer.residual_before(latents[rows], before)
        return quantizer.distances(residual, quantizer.codebooks[level]).cpu().numpy()


def _group_of(codes: np.ndarray) -> np.ndarray:
    """The number of the group of equal rows that each row of `codes` [n, j] is in: int64 [n]."""
    if codes.shape[1] == 0:
        return np.zeros(len(codes), dtype=np.int64)
    return np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)


def _groups(prefixes: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Item numbers of each group of equal `prefixes` [n, j], each group in random order."""
    shuffled = rng.permutation(len(prefixes))
    group = _group_of(prefixes)[shuffled]
    order = np.argsort(group, kind="stable")
    return np.split(shuffled[order], np.flatnonzero(np.diff(group[order])) + 1)


def _no_room(members: np.ndarray, quantizer: ResidualQuantizer, levels: int) -> RunError:
    capacity = quantizer.codebooks.shape[1]
    return RunError(
        f"{len(members)} items (such as {np.sort(members)[:3].tolist()}) share all codes but the last {levels}, "
        f"which hold {capacity**levels} ids; raise items.codes or items.levels"
    )
