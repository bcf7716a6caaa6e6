"""The catalogue trie against Python sets and loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from streamrec_dist.errors import DataError
from streamrec_dist.items.catalogue import Catalogue

LEVELS, CODES = 3, 5


def random_ids(items: int = 40, seed: int = 0) -> np.ndarray:
    """Distinct ids int32 [items, LEVELS] in random order."""
    every = np.array(list(itertools.product(range(CODES), repeat=LEVELS)), dtype=np.int32)
    return every[np.random.default_rng(seed).permutation(len(every))[:items]]


def test_walking_the_trie_finds_exactly_the_ids_and_their_items():
    ids = random_ids()
    catalogue = Catalogue(ids, CODES)
    found: dict[tuple[int, ...], int] = {}

    def walk(depth: int, node: int, prefix: tuple[int, ...]) -> None:
        if depth == LEVELS:
            found[prefix] = int(catalogue.leaf_items(torch.tensor(node)))
            return
        codes, nodes, valid = catalogue.children(depth, torch.tensor(node))
        expected = sorted({int(row[depth]) for row in ids if tuple(row[:depth]) == prefix})
        assert codes[valid].tolist() == expected
        for code, child in zip(codes[valid].tolist(), nodes[valid].tolist(), strict=True):
            walk(depth + 1, child, (*prefix, code))

    walk(0, 0, ())
    assert found == {tuple(row): item for item, row in enumerate(ids.tolist())}


def test_children_of_many_nodes_are_padded_alike():
    catalogue = Catalogue(random_ids(), CODES)
    nodes = torch.tensor([[0, 1, 2], [4, 3, 0]])
    codes, children, valid = catalogue.children(1, nodes)
    assert codes.shape == children.shape == valid.shape == (2, 3, catalogue.max_children[1])
    for place in itertools.product(range(2), range(3)):
        one = catalogue.children(1, nodes[place])
        assert all(
            torch.equal(many[place], single)
            for many, single in zip((codes, children, valid), one, strict=True)
        )
    assert valid.any(-1).all()
    assert (codes[~valid] == 0).all()
    assert (children[~valid] == 0).all()


def test_item_of_agrees_with_a_dictionary_on_every_possible_id():
    ids = random_ids()
    where = {tuple(row): item for item, row in enumerate(ids.tolist())}
    # -1 and CODES are no codes; a packed key without a range check would carry them into a neighbouring id.
    every = list(itertools.product(range(-1, CODES + 1), repeat=LEVELS))
    items = Catalogue(ids, CODES).item_of(torch.tensor(every))
    assert items.tolist() == [where.get(row, -1) for row in every]
    assert items.dtype == torch.int64


def test_item_of_keeps_leading_dimensions():
    ids = random_ids(12)
    items = Catalogue(ids, CODES).item_of(torch.tensor(ids).view(3, 4, LEVELS))
    assert torch.equal(items, torch.arange(12).view(3, 4))


def test_item_of_tokens_wants_the_levels_in_order():
    ids = random_ids()
    catalogue = Catalogue(ids, CODES)
    where = {tuple(row): item for item, row in enumerate(ids.tolist())}
    vocabulary = 2 + LEVELS * CODES
    tokens = torch.cartesian_prod(*[torch.arange(vocabulary)] * LEVELS)
    expected = []
    for row in tokens.tolist():
        levels = [(token - 2) // CODES for token in row]
        in_order = min(row) >= 2 and levels == list(range(LEVELS))
        expected.append(where.get(tuple((token - 2) % CODES for token in row), -1) if in_order else -1)
    assert catalogue.item_of_tokens(tokens).tolist() == expected
    assert sorted(item for item in expected if item >= 0) == list(range(len(ids)))


def test_one_item():
    catalogue = Catalogue(np.array([[3, 0]]), CODES)
    node = torch.tensor(0)
    for depth, code in enumerate([3, 0]):
        codes, nodes, valid = catalogue.children(depth, node)
        assert (codes.tolist(), valid.tolist()) == ([code], [True])
        node = nodes[0]
    assert catalogue.leaf_items(node) == 0
    assert catalogue.item_of(torch.tensor([[3, 0], [0, 3]])).tolist() == [0, -1]


def test_one_level():
    catalogue = Catalogue(np.array([[4], [1]]), CODES)
    assert catalogue.item_of(torch.tensor([[0], [1], [4]])).tolist() == [-1, 1, 0]
    assert catalogue.children(0, torch.tensor(0))[0].tolist() == [1, 4]


def test_a_child_is_found_by_its_code_or_not_at_all():
    ids = random_ids()
    catalogue = Catalogue(ids, CODES)
    where = {tuple(row): item for item, row in enumerate(ids.tolist())}
    nodes, found = torch.tensor([0, -1]), {(): 0}
    for depth in range(LEVELS):
        deeper = {}
        for prefix, node in found.items():
            codes = torch.arange(-1, CODES + 1)
            children = catalogue.child(depth, torch.tensor(node).expand(len(codes)), codes)
            expected = {row[: depth + 1] for row in where if row[:depth] == prefix}
            hits = {(*prefix, int(code)): int(child) for code, child in zip(codes, children, strict=True)}
            assert {longer for longer, child in hits.items() if child >= 0} == expected
            deeper |= {longer: child for longer, child in hits.items() if child >= 0}
        assert sorted(deeper.values()) == list(range(catalogue.nodes(depth + 1)))
        assert catalogue.child(depth, nodes[1:], torch.zeros(1)).tolist() == [-1]
        found = deeper
    assert {row: int(catalogue.leaf_items(torch.tensor(node))) for row, node in found.items()} == where


@pytest.mark.parametrize("codes_per_level", [64, 40_000])
def test_a_large_trie_equals_the_distinct_prefixes(codes_per_level):
    items, levels = 100_000, 3
    rng = np.random.default_rng(0)
    keys = rng.permutation(np.unique(rng.integers(0, codes_per_level**levels, 150_000)))[:items]
    ids = np.stack([keys // codes_per_level**level % codes_per_level for level in (2, 1, 0)], axis=1)
    catalogue = Catalogue(ids.astype(np.int32), codes_per_level)
    parents = np.zeros(1, dtype=np.int64)
    for depth in range(levels):
        prefixes = np.unique(keys // codes_per_level ** (levels - 1 - depth))
        assert catalogue.nodes(depth + 1) == len(prefixes)
        assert np.array_equal(catalogue.child_code[depth], prefixes % codes_per_level)
        starts = np.searchsorted(prefixes // codes_per_level, parents)
        assert np.array_equal(catalogue.children_start[depth], [*starts, len(prefixes)])
        assert catalogue.max_children[depth] == np.diff([*starts, len(prefixes)]).max()
        parents = prefixes
    assert np.array_equal(keys[catalogue.leaf_item], np.sort(keys))
    assert torch.equal(catalogue.codes, torch.from_numpy(ids))
    assert torch.equal(catalogue.item_of(torch.from_numpy(ids)), torch.arange(items))
    others = rng.integers(0, codes_per_level, (1000, levels))
    other_keys = (others[:, 0] * codes_per_level + others[:, 1]) * codes_per_level + others[:, 2]
    known = np.isin(other_keys, keys)
    assert np.array_equal(catalogue.item_of(torch.from_numpy(others)) >= 0, known)


def test_tables_are_as_narrow_as_their_values():
    catalogue = Catalogue(random_ids(), CODES)
    tables = [catalogue.leaf_item, *catalogue.child_code, *catalogue.children_start]
    assert {table.dtype for table in tables} == {torch.int16}
    wide = Catalogue(np.arange(40_000)[:, None], 40_000)
    assert {wide.leaf_item.dtype, wide.child_code[0].dtype, wide.children_start[0].dtype} == {torch.int32}


def test_a_catalogue_that_is_there_already_is_not_copied():
    catalogue = Catalogue(random_ids(), CODES)
    assert catalogue.to("cpu") is catalogue


def test_a_moved_copy_answers_alike_and_leaves_the_original():
    catalogue = Catalogue(random_ids(), CODES)
    moved = catalogue.to("meta")
    assert moved.device.type == moved.child_code[0].device.type == "meta"
    assert catalogue.device.type == catalogue.child_code[0].device.type == "cpu"


def test_the_catalogue_does_not_share_memory_with_its_input():
    ids = random_ids().astype(np.int64)
    catalogue = Catalogue(ids, CODES)
    ids[:] = 0
    assert torch.equal(catalogue.codes, torch.tensor(random_ids(), dtype=torch.int64))


def test_large_codes_use_the_whole_key():
    top = 2**15 - 1
    ids = np.array([[top] * 4, [0] * 4, [top, top, top, 0]])
    assert Catalogue(ids, 2**15).item_of(torch.from_numpy(ids)).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("ids", "codes", "message"),
    [
        ([[0, 1], [2, 2], [1, 1], [2, 2]], 3, r"items 1 and 3 share the semantic id \[2, 2\]"),
        ([[0, 1], [2, 3]], 3, r"item 1 has semantic id \[2, 3\] with a code outside 0\.\.2"),
        ([[0, 1], [-1, 2]], 3, r"item 1 has semantic id \[-1, 2\]"),
        (np.zeros((0, 4), dtype=np.int32), 3, "the catalogue is empty"),
        (np.zeros((2, 0), dtype=np.int32), 3, r"table \[items, levels\]"),
        ([1, 2, 3], 4, r"table \[items, levels\], got shape \[3\]"),
        ([[0] * 8], 256, "more ids than fit in 64 bits"),
    ],
)
def test_bad_ids_are_refused(ids, codes, message):
    with pytest.raises(DataError, match=message):
        Catalogue(np.asarray(ids), codes)
