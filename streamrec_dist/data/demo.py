"""The demo catalogue: synthetic items and users whose behaviour follows a planted process.

Items. An item is a product kind (40 kinds in 8 departments) of a brand (10) in a price tier (5): 2,000 items,
whose texts name all three.

Users. Each user has a home brand, drawn by a mild Zipf law. Every next item is drawn from a product of three
distributions (`Process.next_item`), without the items that the user already has:

- kind: .50 the first successor of the last item's kind, .15 its second successor, .15 the first successor of
  the kind before that (a thread taken up again), .20 any kind by a Zipf law. The successors are random
  permutations across departments, so no similarity of texts gives them away.
- brand: .50 the home brand, .20 the brand of the last item, .30 any brand by the Zipf law.
- tier: from tier t of the last item .20 t, .30 t + 1, .10 t - 1, .40 any: users drift upwards.

`Process.next_item` itself gives the best ranking that is possible, a Recall@10 of .51. Popularity, which
knows neither the successors nor the home brand, reaches .02, and item-to-item counts, which cannot share what
they learn between the brands and tiers of a kind, .26.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamrec_dist.data.demo_words import BRANDS, KINDS, TIERS, item_fields
from streamrec_dist.data.raw import RawData, text_notes
from streamrec_dist.errors import ConfigError

FIRST, SECOND, RESUMED = 0.50, 0.15, 0.15
HOME, SAME = 0.50, 0.20
STAY, UP, DOWN = 0.20, 0.30, 0.10
SHORTEST, LONGEST, MEAN_LENGTH = 5, 20, 10
MIN_ITEMS, MAX_ITEMS = 60, len(KINDS) * len(BRANDS) * len(TIERS)


@dataclass(frozen=True, eq=False)
class Process:
    """The planted truth. `kind`, `brand`, `tier` int64 [items]; `successors` int64 [2, kinds]."""

    kind: np.ndarray
    brand: np.ndarray
    tier: np.ndarray
    successors: np.ndarray
    kind_share: np.ndarray
    brand_share: np.ndarray

    def next_item(self, history: Sequence[int], home: int) -> np.ndarray:
        """Probability of each item to come next for a user of this home brand: float64 [items], sums to 1."""
        p_kind, p_brand = self.kind_share, np.eye(len(self.brand_share))[home]
        p_tier = np.full(len(TIERS), 1 / len(TIERS))
        if history:
            last = history[-1]
            before = history[-2] if len(history) > 1 else last
            p_kind = self._next_kind(self.kind[last], self.kind[before])
            p_brand = self._next_brand(home, self.brand[last])
            p_tier = _next_tier(self.tier[last])
        p = p_kind[self.kind] * p_brand[self.brand] * p_tier[self.tier]
        p[list(history)] = 0.0
        return p / p.sum()

    def _next_kind(self, last: int, before: int) -> np.ndarray:
        p = (1 - FIRST - SECOND - RESUMED) * self.kind_share
        p[self.successors[0, last]] += FIRST
        p[self.successors[1, last]] += SECOND
        p[self.successors[0, before]] += RESUMED
        return p

    def _next_brand(self, home: int, last: int) -> np.ndarray:
        p = (1 - HOME - SAME) * self.brand_share
        p[home] += HOME
        p[last] += SAME
        return p


def demo_catalogue(users: int = 5000, items: int = 2000, seed: int = 0) -> RawData:
    """The synthetic data set, a function of its arguments alone; item numbers carry no information.

    Raises ConfigError where `items` is outside 60 .. 2,000 or `users` below 1.
    """
    return planted_demo(users, items, seed)[0]


def planted_demo(users: int, items: int, seed: int) -> tuple[RawData, Process, np.ndarray]:
    """The synthetic data set with the process behind it and the home brand of every user, int64 [users]."""
    if not MIN_ITEMS <= items <= MAX_ITEMS or users < 1:
        raise ConfigError(
            f"a demo of {users} users and {items} items: expected at least 1 user and "
            f"{MIN_ITEMS} .. {MAX_ITEMS} items"
        )
    rng = np.random.default_rng(seed)
    process = _plant(items, rng)
    homes = rng.choice(len(process.brand_share), size=users, p=process.brand_share)
    lengths = SHORTEST + rng.binomial(
        LONGEST - SHORTEST, (MEAN_LENGTH - SHORTEST) / (LONGEST - SHORTEST), users
    )
    sequences = [_walk(process, home, length, rng) for home, length in zip(homes, lengths, strict=True)]
    described = zip(process.kind, process.brand, process.tier, strict=True)
    fields = [item_fields(kind, brand, tier, rng) for kind, brand, tier in described]
    raw = RawData(
        name="demo (synthetic)",
        source="demo catalogue",
        items=np.concatenate(sequences).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        user_ids=[f"user{number}" for number in range(users)],
        item_ids=[f"item{number}" for number in range(items)],
        titles=[f.title for f in fields],
        texts=[f.text() for f in fields],
        synthetic=True,
        notes=text_notes(fields),
    )
    return raw, process, homes


def _plant(items: int, rng: np.random.Generator) -> Process:
    """Draws the items in random order and the hidden successors of the kinds."""
    # Fewer items keep whole brands and tiers, so that the process stays learnable: they lose kinds first.
    brands = len(BRANDS) if items >= MAX_ITEMS // 4 else 4
    kinds = min(len(KINDS), -(-items // (brands * len(TIERS))))
    grid = np.array([(k, b, t) for k in range(kinds) for b in range(brands) for t in range(len(TIERS))])
    chosen = grid[rng.choice(len(grid), size=items, replace=False)]
    cycle = rng.permutation(kinds)
    first, second = np.empty(kinds, dtype=np.int64), np.empty(kinds, dtype=np.int64)
    # Steps along one random cycle are permutations without fixed points, and no two of them agree anywhere.
    first[cycle] = np.roll(cycle, -1)
    second[cycle] = np.roll(cycle, -2)
    return Process(
        kind=chosen[:, 0],
        brand=chosen[:, 1],
        tier=chosen[:, 2],
        successors=np.stack([first, second]),
        kind_share=_zipf(kinds, 1.0, rng),
        brand_share=_zipf(brands, 0.5, rng),
    )


def _zipf(n: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    weights = 1.0 / np.arange(1, n + 1) ** exponent
    return rng.permutation(weights / weights.sum())


def _next_tier(last: int) -> np.ndarray:
    p = np.full(len(TIERS), (1 - STAY - UP - DOWN) / len(TIERS))
    p[last] += STAY
    p[min(last + 1, len(TIERS) - 1)] += UP
    p[max(last - 1, 0)] += DOWN
    return p


def _walk(process: Process, home: int, length: int, rng: np.random.Generator) -> list[int]:
    history: list[int] = []
    for _ in range(length):
        # Inverting the cumulative sum is ten times as fast as rng.choice with probabilities.
        cumulative = np.cumsum(process.next_item(history, home))
        history.append(int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")))
    return history
