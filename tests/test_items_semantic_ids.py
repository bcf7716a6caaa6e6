"""Unique semantic ids: collisions in both modes, the report, and the file."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from streamrec_dist.errors import DataError, RunError
from streamrec_dist.items.collisions import add_digits, reassign_last_level
from streamrec_dist.items.id_file import load_ids, save_ids
from streamrec_dist.items.quantizer import ResidualQuantizer
from streamrec_dist.items.report import id_report
from streamrec_dist.items.residual_kmeans import fit_residual_kmeans
from streamrec_dist.items.rqvae import train_rqvae
from streamrec_dist.items.semantic_ids import assign_ids
from streamrec_dist.items.tokenizer import TokenizerOptions


def options(collisions: str, **values) -> TokenizerOptions:
    defaults = {"levels": 3, "codes": 16, "latent": 8, "hidden": (32,), "epochs": 5, "batch": 64, "lr": 3e-3}
    return TokenizerOptions(**{**defaults, **values, "collisions": collisions})


def unique(ids: np.ndarray) -> bool:
    return len({tuple(row) for row in ids.tolist()}) == len(ids)


def embeddings(items: int, copies: int = 1, seed: int = 0) -> np.ndarray:
    distinct = np.random.default_rng(seed).normal(size=(items, 12)).astype(np.float32)
    return np.repeat(distinct, copies, axis=0)


@pytest.mark.parametrize("collisions", ["digit", "sinkhorn"])
@pytest.mark.parametrize(("items", "copies"), [(300, 1), (40, 7), (1, 1), (1, 16), (3, 1)])
def test_every_item_gets_an_id_of_its_own(collisions, items, copies):
    data = embeddings(items, copies)
    chosen = options(collisions)
    ids = assign_ids(train_rqvae(data, chosen), data, chosen)
    assert ids.dtype == np.int32
    assert ids.shape == (items * copies, 3)
    assert unique(ids)
    assert ids.min() >= 0
    assert ids.max() < 16


@pytest.mark.parametrize("collisions", ["digit", "sinkhorn"])
def test_items_that_do_not_collide_keep_their_codes(collisions):
    data = embeddings(300)
    chosen = options(collisions)
    model = train_rqvae(data, chosen)
    codes = model.encode(torch.from_numpy(data)).numpy()
    ids = assign_ids(model, data, chosen)
    if collisions == "digit":
        assert np.array_equal(ids[:, :2], codes)
    else:
        _, inverse, sizes = np.unique(codes[:, :2], axis=0, return_inverse=True, return_counts=True)
        alone = sizes[inverse.reshape(-1)] == 1
        assert alone.any()
        assert np.array_equal(ids[alone], codes[alone])


@pytest.mark.parametrize("collisions", ["digit", "sinkhorn"])
def test_ids_repeat_with_the_seed(collisions):
    data = embeddings(60, 3)
    chosen = options(collisions)
    model = train_rqvae(data, chosen)
    assert np.array_equal(assign_ids(model, data, chosen), assign_ids(model, data, chosen))


def test_digits_count_within_a_group_in_random_order():
    codes = np.array([[1, 1]] * 12 + [[1, 2]] + [[0, 1]] * 2)
    ids = add_digits(codes, 16, np.random.default_rng(0))
    assert sorted(ids[:12, 2]) == list(range(12))
    assert ids[12, 2] == 0
    assert sorted(ids[13:, 2]) == [0, 1]
    assert ids[:12, 2].tolist() != list(range(12))
    # Over many seeds an item's number says nothing about its digit.
    digits = [add_digits(codes, 16, np.random.default_rng(seed))[:12, 2] for seed in range(400)]
    assert np.abs(np.mean(digits, axis=0) - 5.5).max() < 0.9


def test_more_items_than_ids_are_an_error_with_advice():
    data = embeddings(1, 17)
    chosen = options("digit", levels=2, codes=4)
    model = train_rqvae(data, chosen)
    with pytest.raises(RunError, match=r"17 items \(such as \[0, 1, 2\]\).*hold 16 ids; raise items.codes"):
        assign_ids(model, data, chosen)


def small_quantizer(levels: int, codes: int, latent: int = 3, seed: int = 0) -> ResidualQuantizer:
    quantizer = ResidualQuantizer(levels, codes, latent, beta=0.25)
    with torch.no_grad():
        quantizer.codebooks.normal_(generator=torch.Generator().manual_seed(seed))
    return quantizer


def test_reassignment_has_the_least_total_distance():
    quantizer = small_quantizer(levels=2, codes=5)
    # Near the first codeword, so that all share it and the last codes must be dealt out.
    latents = quantizer.codebooks[0, 3].detach() + 0.05 * torch.randn(
        4, 3, generator=torch.Generator().manual_seed(1)
    )
    codes = quantizer(latents)[2].numpy()
    assert len(np.unique(codes, axis=0)) < 4
    ids = reassign_last_level(quantizer, latents, codes, np.random.default_rng(0))
    assert np.array_equal(ids[:, 0], codes[:, 0])
    residual = (latents - quantizer.codebooks[0, 3]).detach().numpy()
    book = quantizer.codebooks[1].detach().numpy()

    def cost(columns) -> float:
        return sum(float(((residual[row] - book[column]) ** 2).sum()) for row, column in enumerate(columns))

    best = min(itertools.permutations(range(5), 4), key=cost)
    assert cost(ids[:, 1]) == pytest.approx(cost(best), rel=1e-5)


def test_a_prefix_group_larger_than_the_codes_spreads_to_the_next_nearest():
    quantizer = small_quantizer(levels=2, codes=4)
    latents = quantizer.codebooks[0, 2].detach().repeat(9, 1)
    codes = quantizer(latents)[2].numpy()
    ids = reassign_last_level(quantizer, latents, codes, np.random.default_rng(0))
    assert unique(ids)
    by_distance = np.argsort(
        (quantizer.codebooks[0] - quantizer.codebooks[0, 2]).pow(2).sum(1).detach().numpy()
    )
    sizes = np.bincount(ids[:, 0], minlength=4)
    assert sizes[by_distance].tolist() == [4, 4, 1, 0]
    # The item that landed alone has the last code nearest to its new residual.
    alone = int(np.flatnonzero(ids[:, 0] == by_distance[2])[0])
    residual = latents[alone] - quantizer.codebooks[0, by_distance[2]]
    nearest = int((quantizer.codebooks[1] - residual).pow(2).sum(1).argmin())
    assert ids[alone, 1] == nearest != codes[alone, 1]


def test_the_last_two_levels_can_be_filled_to_the_brim_but_not_beyond():
    quantizer = small_quantizer(levels=3, codes=3)
    latents = quantizer.codebooks[0, 1].detach().repeat(10, 1)
    codes = quantizer(latents)[2].numpy()
    full = reassign_last_level(quantizer, latents[:9], codes[:9], np.random.default_rng(0))
    assert unique(full)
    assert (full[:, 0] == 1).all()
    with pytest.raises(RunError, match=r"10 items .* all codes but the last 2, which hold 9 ids"):
        reassign_last_level(quantizer, latents, codes, np.random.default_rng(0))


def test_a_single_level_deals_out_the_whole_codebook():
    quantizer = small_quantizer(levels=1, codes=6)
    latents = torch.zeros(7, 3)
    codes = np.zeros((7, 1), dtype=np.int64)
    ids = reassign_last_level(quantizer, latents[:6], codes[:6], np.random.default_rng(0))
    assert sorted(ids[:, 0]) == list(range(6))
    with pytest.raises(RunError, match="7 items"):
        reassign_last_level(quantizer, latents, codes, np.random.default_rng(0))


def test_report_of_a_hand_made_case():
    before = np.array([[0], [0], [0], [1]])
    ids = np.array([[0, 0], [0, 1], [0, 2], [1, 0]])
    report = id_report(before, ids, codes_per_level=4)
    assert report["used_codes"] == [2, 3]
    # Entropies of (3/4, 1/4) and of (1/2, 1/4, 1/4).
    assert report["perplexity"] == pytest.approx([4 / 3**0.75, 2**1.5])
    assert (report["surplus"], report["largest_group"], report["items"]) == (2, 3, 4)


def test_more_equal_items_than_digits_spill_into_the_next_code():
    chosen = options("digit", levels=3, codes=4, method="kmeans")
    points = np.concatenate([np.zeros((10, 2)), np.random.default_rng(0).normal(size=(6, 2)) + 5])
    model = fit_residual_kmeans(points.astype(np.float32), chosen)
    ids = assign_ids(model, points.astype(np.float32), chosen)
    assert len(np.unique(ids, axis=0)) == 16
    # All ten keep the first code; 4 + 4 + 2 share the first two.
    assert len(np.unique(ids[:10, 0])) == 1
    assert sorted(np.unique(ids[:10, 1], return_counts=True)[1].tolist()) == [2, 4, 4]


def test_saved_ids_come_back(tmp_path):
    ids = np.array([[0, 3], [2, 1], [2, 0]], dtype=np.int32)
    path = tmp_path / "ids.parquet"
    save_ids(path, ["b", "ü", "a"], ids, 4)
    loaded = load_ids(path)
    assert loaded.codes.dtype == np.int32
    assert np.array_equal(loaded.codes, ids)
    assert list(loaded.items) == ["b", "ü", "a"]
    assert [file.name for file in tmp_path.iterdir()] == ["ids.parquet"]
    table = pq.read_table(path)
    assert table.column_names == ["item", "c1", "c2"]
    assert table.schema.metadata[b"codes_per_level"] == b"4"


def test_bad_ids_are_not_written(tmp_path):
    with pytest.raises(DataError, match="share the semantic id"):
        save_ids(tmp_path / "ids.parquet", ["a", "b"], np.zeros((2, 2), dtype=np.int32), 4)
    with pytest.raises(DataError, match="item 'a' is given more than one id"):
        save_ids(tmp_path / "ids.parquet", ["a", "a"], np.array([[0, 1], [0, 2]], dtype=np.int32), 4)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="cannot be written"):
        save_ids(tmp_path / "no" / "ids.parquet", ["a"], np.array([[0, 1]], dtype=np.int32), 4)


def test_ids_are_matched_by_item_and_not_by_place(tmp_path):
    path = tmp_path / "ids.parquet"
    save_ids(path, ["a", "b", "c"], np.array([[0, 3], [2, 1], [2, 0]], dtype=np.int32), 4)
    loaded = load_ids(path)
    assert loaded.of(["c", "a"]).tolist() == [[2, 0], [0, 3]]
    assert loaded.places(["x", "b"]).tolist() == [-1, 1]
    with pytest.raises(DataError, match=r"ids\.parquet: has no id for item 'x' \(2 of 3 items are missing\)"):
        loaded.of(["b", "x", "y"])


@pytest.mark.parametrize(
    ("columns", "metadata", "message"),
    [
        ({"item": ["p", "q"], "c1": [2, 2]}, {"codes_per_level": "4"}, "items 0 and 1 share"),
        ({"item": ["p", "q"], "c1": [2, 4]}, {"codes_per_level": "4"}, r"item 1 .* outside 0\.\.3"),
        (
            {"item": [0, 1], "c1": [2, 3]},
            {"codes_per_level": "4"},
            "column item must hold the items' original",
        ),
        ({"item": ["p", "p"], "c1": [2, 3]}, {"codes_per_level": "4"}, "item 'p' is given more than one id"),
        ({"item": ["p", "q"], "x": [2, 3]}, {"codes_per_level": "4"}, r"columns are \['item', 'x'\]"),
        ({"item": ["p", "q"]}, {"codes_per_level": "4"}, "expected item, c1"),
        ({"item": ["p", "q"], "c1": [2, None]}, {"codes_per_level": "4"}, "column c1 must hold integers"),
        ({"item": ["p", "q"], "c1": ["a", "b"]}, {"codes_per_level": "4"}, "column c1 must hold integers"),
        ({"item": ["p", "q"], "c1": [2, 3]}, {}, "no codes_per_level"),
    ],
)
def test_a_bad_id_file_is_refused_by_name(tmp_path, columns, metadata, message):
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    with pytest.raises(DataError, match=rf"bad\.parquet: .*{message}"):
        load_ids(path)


def test_a_truncated_or_missing_id_file_is_refused_by_name(tmp_path):
    path = tmp_path / "ids.parquet"
    with pytest.raises(DataError, match=r"ids\.parquet: no such file"):
        load_ids(path)
    save_ids(path, ["a"], np.array([[0, 1]], dtype=np.int32), 4)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"ids\.parquet: not a readable Parquet file"):
        load_ids(path)
