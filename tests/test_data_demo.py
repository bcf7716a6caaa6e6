"""The demo catalogue: its shape, its promises, and how hard it is."""

from __future__ import annotations

import numpy as np
import pytest

from streamrec_dist.baselines.counting import CountingModel
from streamrec_dist.baselines.popularity import PopularityModel
from streamrec_dist.data.build import validate
from streamrec_dist.data.demo import Process, demo_catalogue, planted_demo
from streamrec_dist.data.demo_words import BRANDS, KINDS, TIERS
from streamrec_dist.data.split import split_rows
from streamrec_dist.errors import ConfigError
from streamrec_dist.metrics import ranking_metrics, ranks_of_targets


def recall(process: Process, ds, homes: np.ndarray, rows: np.ndarray) -> float:
    scores = np.stack([process.next_item(ds.history(u)[:p].tolist(), homes[u]) for u, p in rows])
    chosen = np.array([ds.history(u)[p] for u, p in rows])
    return ranking_metrics(ranks_of_targets(scores, chosen, np.random.default_rng(0)))["recall@10"]


def test_the_default_catalogue_is_hard_for_popularity_and_learnable():
    raw, process, homes = planted_demo(users=5000, items=2000, seed=0)
    ds = validate(raw)
    shape = ds.describe()
    assert ds.synthetic
    assert "synthetic" in ds.name
    assert (shape["users"], shape["items"]) == (5000, 2000)
    assert 5 == shape["length_min"] <= shape["length_max"] <= 20
    assert shape["length_mean"] == pytest.approx(10, abs=0.3)
    assert len(set(ds.titles)) == len(set(ds.texts)) == 2000
    assert all(len(set(ds.history(user).tolist())) == len(ds.history(user)) for user in range(ds.users))

    rows = split_rows(ds, "test")
    oracle = recall(process, ds, homes, rows[:1500])
    counting = ranking_metrics(CountingModel.fit(ds).ranks(ds, rows, masked=True))["recall@10"]
    popular = ranking_metrics(PopularityModel.fit(ds).ranks(ds, rows, masked=True))["recall@10"]
    assert 0.45 < oracle < 0.57
    assert counting < 0.65 * oracle
    assert popular < 0.04

    # What the history shows of the home brand is enough: nothing hidden is needed to come near the oracle.
    brands = np.array([np.bincount(process.brand[ds.history(u)[:-1]]).argmax() for u in range(ds.users)])
    assert recall(process, ds, brands, rows[:1500]) > 0.9 * oracle


def test_the_successors_are_permutations_across_kinds():
    _, process, _ = planted_demo(users=1, items=2000, seed=4)
    first, second = process.successors
    kinds = np.arange(len(KINDS))
    assert sorted(first) == sorted(second) == kinds.tolist()
    assert not (first == kinds).any()
    assert not (second == kinds).any()
    assert not (first == second).any()
    same = np.mean([KINDS[a].department == KINDS[b].department for a, b in zip(kinds, first, strict=True)])
    assert same < 0.3, "successors must not follow the departments that the texts name"


def test_next_item_is_the_documented_product():
    _, process, _ = planted_demo(users=1, items=2000, seed=0)
    before, last, home = 3, 11, 2
    p = process.next_item([before, last], home)
    assert p.sum() == pytest.approx(1)
    assert p[before] == p[last] == 0
    item = int(p.argmax())
    kind, brand, tier = process.kind[item], process.brand[item], process.tier[item]
    p_kind = 0.2 * process.kind_share[kind]
    p_kind += 0.5 * (kind == process.successors[0, process.kind[last]])
    p_kind += 0.15 * (kind == process.successors[1, process.kind[last]])
    p_kind += 0.15 * (kind == process.successors[0, process.kind[before]])
    p_brand = 0.3 * process.brand_share[brand] + 0.5 * (brand == home) + 0.2 * (brand == process.brand[last])
    low, high = max(process.tier[last] - 1, 0), min(process.tier[last] + 1, len(TIERS) - 1)
    p_tier = 0.08 + 0.2 * (tier == process.tier[last]) + 0.3 * (tier == high) + 0.1 * (tier == low)
    # The two items that the user has take their share away from the normaliser.
    assert p[item] == pytest.approx(p_kind * p_brand * p_tier, rel=0.05)


def test_observed_brands_match_the_planted_shares():
    raw, process, homes = planted_demo(users=2000, items=2000, seed=1)
    owner = np.repeat(np.arange(2000), np.diff(raw.offsets))
    at_home = (process.brand[raw.items] == homes[owner]).mean()
    # Stationary share h of the home brand: h = .5 + .2 h + .3 q, with q about 1/10 by chance; first items raise it.
    assert at_home == pytest.approx((0.5 + 0.3 / len(BRANDS)) / 0.8, abs=0.06)


def test_the_catalogue_depends_on_the_seed_alone():
    one, two, other = (validate(demo_catalogue(50, 100, seed)) for seed in (0, 0, 1))
    assert one.content_hash == two.content_hash != other.content_hash


@pytest.mark.parametrize("items", [60, 137, 500, 1999])
def test_smaller_catalogues_work(items: int):
    ds = validate(demo_catalogue(users=30, items=items))
    assert ds.n_items == len(set(ds.titles)) == items


@pytest.mark.parametrize(("users", "items"), [(10, 59), (10, 2001), (0, 100)])
def test_impossible_sizes_are_refused(users: int, items: int):
    with pytest.raises(ConfigError, match=r"60 \.\. 2000"):
        demo_catalogue(users, items)
