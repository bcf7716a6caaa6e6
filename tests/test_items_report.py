"""The report on ids, balanced assignment, ids from elsewhere and ids of new items."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from streamrec_dist.errors import DataError, RunError
from streamrec_dist.items.collisions import separate
from streamrec_dist.items.extend import extend_ids
from streamrec_dist.items.foreign_ids import load_index
from streamrec_dist.items.report import id_report, prefix_sharing
from streamrec_dist.items.residual_kmeans import fit_residual_kmeans
from streamrec_dist.items.sinkhorn import balanced_codes
from streamrec_dist.items.tokenizer import TokenizerOptions
from tests.conftest import SHARED_DATA


def test_prefixes_shared_with_neighbours_are_counted_by_hand():
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 0]])
    neighbours = np.array([[1], [0], [3], [0]])
    shared = prefix_sharing(codes, neighbours)
    # 0-1 and 1-0 share one code, 2-3 both, 3-0 none.
    assert shared["neighbours"] == [0.75, 0.25]
    assert len(shared["random"]) == 2


def test_random_partners_are_never_the_item_itself():
    codes = np.arange(30)[:, None]
    assert prefix_sharing(codes, np.zeros((30, 10), dtype=np.int64))["random"] == [0.0]


def test_a_balanced_assignment_uses_all_codes_alike():
    points = torch.randn(600, 3, generator=torch.Generator().manual_seed(0))
    centres = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)) * 0.3
    distances = torch.cdist(points, centres) ** 2
    nearest = torch.bincount(distances.argmin(1), minlength=6)
    balanced = torch.bincount(balanced_codes(distances, 0.01), minlength=6)
    assert nearest.max() > 130 and nearest.min() < 60
    assert balanced.min() > 85 and balanced.max() < 115


def test_a_balanced_assignment_of_little_entropy_is_the_cheapest_one():
    distances = torch.rand(8, 8, generator=torch.Generator().manual_seed(3))
    _, best = linear_sum_assignment(distances.numpy())
    assert balanced_codes(distances, 0.02).tolist() == best.tolist()


def test_equal_points_are_assigned_without_trouble():
    assert balanced_codes(torch.zeros(4, 3), 0.05).shape == (4,)


def options(**values) -> TokenizerOptions:
    return TokenizerOptions(**{"method": "kmeans", "levels": 3, "codes": 4, **values})


@pytest.mark.parametrize("collisions", ["digit", "sinkhorn"])
def test_new_items_get_free_ids_and_nobody_loses_one(collisions):
    chosen = options(codes=8, collisions=collisions)
    data = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    model = fit_residual_kmeans(data, chosen)
    codes = model.encode(torch.from_numpy(data)).numpy()
    taken = separate(
        np.column_stack([codes, np.zeros(20, int)]) if collisions == "digit" else codes,
        8,
        np.random.default_rng(0),
    )
    # Copies of an old item want its id, which is taken.
    new = extend_ids(model, np.repeat(data[:1], 3, axis=0), taken, chosen)
    everything = np.concatenate([taken, new])
    assert len(np.unique(everything, axis=0)) == 23
    if collisions == "digit":
        assert (new[:, :2] == codes[0]).all()
    else:
        residual = model.quantizer.residual_before(
            model.latents(torch.from_numpy(data[:1])), torch.from_numpy(codes[:1, :2])
        )
        order = model.quantizer.distances(residual, model.quantizer.codebooks[2])[0].argsort().tolist()
        prefix = tuple(codes[0, :2].tolist())
        free = [code for code in order if (*prefix, code) not in {tuple(row) for row in taken.tolist()}]
        same_prefix = [row[2] for row in new.tolist() if tuple(row[:2]) == prefix]
        assert same_prefix == free[: len(same_prefix)]
        assert len(same_prefix) == min(3, len(free))


def test_a_new_item_without_a_free_id_is_named():
    chosen = options(levels=2, codes=2, collisions="digit")
    model = fit_residual_kmeans(np.array([[0.0], [1.0]], np.float32), chosen)
    taken = np.array([[a, b] for a in range(2) for b in range(2)])
    with pytest.raises(RunError, match="new item 0 finds no free id"):
        extend_ids(model, np.zeros((1, 1), np.float32), taken, chosen)


def test_colliding_codes_are_told_apart_under_their_prefix():
    codes = np.array([[1, 2], [1, 2], [1, 2], [1, 3], [0, 0]])
    ids = separate(codes, 5, np.random.default_rng(0))
    assert len(np.unique(ids, axis=0)) == 5
    assert np.array_equal(ids[:, 0], codes[:, 0])
    assert ids[3].tolist() == [1, 3] and ids[4].tolist() == [0, 0]
    assert 2 in ids[:3, 1]
    with pytest.raises(RunError, match=r"4 items .* tells only 3 apart"):
        separate(np.array([[1, 2]] * 4), 3, np.random.default_rng(0))


def write_index(path: Path, body: object) -> Path:
    data = json.dumps(body).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["x.index.json", "x.index.json.gz"])
def test_an_index_is_read(tmp_path, name):
    path = write_index(tmp_path / name, {"1": ["<a_0>", "<b_255>"], "0": ["<a_12>", "<b_7>"]})
    assert load_index(path).of(["0", "1"]).tolist() == [[12, 7], [0, 255]]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"0": ["<a_99999999999>"]}, "item 0: expected <a_CODE> as code 1"),
        ({"0": ["<b_1>"]}, "item 0: expected <a_CODE> as code 1, found '<b_1>'"),
        ({"0": "<a_1>"}, "item 0: expected a list of codes"),
        ({"0": ["<a_1>"], "1": ["<a_1>", "<b_1>"]}, "item 1 has 2 codes, others have 1"),
        ([], "expected an object"),
        ({}, "holds no items"),
    ],
)
def test_a_broken_index_is_named(tmp_path, body, message):
    with pytest.raises(DataError, match=message):
        load_index(write_index(tmp_path / "x.index.json", body))


def test_a_truncated_index_is_named(tmp_path):
    path = write_index(tmp_path / "x.index.json.gz", {"0": ["<a_1>"]})
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(DataError, match="truncated gzip"):
        load_index(path)
    with pytest.raises(DataError, match="No such file"):
        load_index(tmp_path / "nothing.json")
    with pytest.raises(DataError, match="Is a directory"):
        load_index(tmp_path)


def test_an_item_twice_in_an_index_is_named(tmp_path):
    path = tmp_path / "x.index.json"
    path.write_text('{"0": ["<a_1>"], "1": ["<a_2>"], "0": ["<a_3>"]}')
    with pytest.raises(DataError, match="item 0 is given more than once"):
        load_index(path)


def test_published_ids_of_beauty():
    path = SHARED_DATA / "Beauty" / "Beauty.index.json.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    codes = load_index(path).codes
    report = id_report(codes, codes, 256)
    assert (report["items"], report["levels"], report["surplus"]) == (12101, 4, 13)
    assert report["used_codes"] == [197, 256, 256, 256]
    assert len(np.unique(separate(codes, 256, np.random.default_rng(0)), axis=0)) == 12101
