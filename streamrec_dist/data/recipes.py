"""Recipes: which interactions of a raw data set count, and how they are split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

from streamrec_dist.data.raw import suggest
from streamrec_dist.data.split import Split
from streamrec_dist.errors import ConfigError


@dataclass(frozen=True)
class Counts:
    """What a paper reports of its prepared data."""

    users: int
    items: int
    interactions: int

    def differences(self, found: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
        """Name -> (expected, found) of the counts, all three of them."""
        return {name: (expected, found[name]) for name, expected in vars(self).items()}


@dataclass(frozen=True)
class Recipe:
    """From a raw data set to a prepared one.

    Interactions with a rating above `min_rating` count (None: all). Of these the core is kept: users with
    `user_core` and items with `item_core` interactions at least, again and again until nobody leaves (None: no
    such minimum). `max_history` is the history length of the paper, recorded and not enforced. `raw` names the
    public data set that it is meant for.
    """

    format: str
    min_rating: float | None = None
    user_core: int | None = None
    item_core: int | None = None
    split: Split = field(default_factory=Split)
    max_history: int = 20
    expected: Counts | None = None
    raw: str | None = None
    note: str = ""
    name: str | None = None

    def __post_init__(self) -> None:
        for name in ("user_core", "item_core"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} {value}: expected at least 1, or nothing")
        if self.min_rating is not None and not isfinite(self.min_rating):
            raise ConfigError(f"min_rating {self.min_rating}: expected a finite number, or nothing")

    @property
    def has_core(self) -> bool:
        """Whether users or items with too few interactions are left out."""
        return self.user_core is not None or self.item_core is not None

    @property
    def filters(self) -> bool:
        """Whether anything is left out; then users who become too short to split are left out as well."""
        return self.has_core or self.min_rating is not None

    def filter_text(self) -> str:
        """The filter in words: "rating > 3, users >= 5"."""
        parts = {
            "rating > {:g}": self.min_rating,
            "users >= {}": self.user_core,
            "items >= {}": self.item_core,
        }
        return ", ".join(text.format(value) for text, value in parts.items() if value is not None) or "none"

    def record(self) -> dict[str, Any]:
        """What dataset.json keeps of it."""
        return {
            "name": self.name,
            "format": self.format,
            "min_rating": self.min_rating,
            "user_core": self.user_core,
            "item_core": self.item_core,
            "split": str(self.split),
            "max_history": self.max_history,
        }


#: The official moments of the absolute-time split of Amazon Reviews 2023, first of validation, then of test.
AMAZON_2023 = Split((1628643414042, 1658002729837))
#: 2018-09-04 and 2020-05-12, 00:00 UTC.
YELP = Split((1536019200000, 1589241600000))


def _stream_rec(category: str, users: int, items: int, interactions: int, note: str = "") -> Recipe:
    """Section 3.1.1 of STREAM-Rec: 5-core of users and items, leave-one-out, at most 20 items."""
    expected = Counts(users, items, interactions)
    return Recipe("amazon2023", None, 5, 5, Split(), 20, expected, f"amazon2023/{category}-5core", note)


def _rearec(category: str, users: int, items: int, interactions: int, user_core: int = 5) -> Recipe:
    """Section 4.1.1 of ReaRec, Amazon: rating above 3, users with few interactions left out, items not.

    The paper's footnote names the 5-core files; its notebooks read those of the official split by time.
    """
    expected, raw = Counts(users, items, interactions), f"amazon2023/{category}-5core-split"
    return Recipe("amazon2023", 3, user_core, None, AMAZON_2023, 50, expected, raw)


RECIPES: dict[str, Recipe] = {
    # Counts of Table 1 of STREAM-Rec. Its sequences are users: the preprocessing that it follows, S3-Rec's, makes
    # one sequence a user, filters users and items to the 5-core, and counts both, with no user taken off.
    "stream-rec/instruments": _stream_rec(
        "musical-instruments",
        57_349,
        24_587,
        511_836,
        "the mean length 7.37 in the paper's table does not follow from its counts (511,836 / 57,349 = 8.92)",
    ),
    "stream-rec/scientific": _stream_rec("industrial-and-scientific", 50_985, 25_848, 412_947),
    # Counts of Table 1 of ReaRec.
    "rearec/yelp": Recipe("yelp", 3, 20, 20, YELP, 50, Counts(13_083, 10_697, 443_807), "yelp"),
    "rearec/video-games": _rearec("video-games", 89_021, 22_933, 530_989),
    "rearec/software": _rearec("software", 30_049, 16_705, 168_029),
    "rearec/cds": _rearec("cds-and-vinyl", 35_238, 87_969, 513_991, user_core=10),
    "rearec/baby": _rearec("baby-products", 140_292, 30_689, 780_809),
}


def named(name: str) -> Recipe:
    """A recipe of RECIPES. Raises ConfigError for an unknown name."""
    if name not in RECIPES:
        known = list(RECIPES)
        raise ConfigError(f"no recipe {name!r}{suggest(name, known)}; there are: {', '.join(known)}")
    return replace(RECIPES[name], name=name)
