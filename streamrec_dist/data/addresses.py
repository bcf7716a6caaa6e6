"""Where public data sets can be downloaded: one table, by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

UCSD = "https://mcauleylab.ucsd.edu/public_datasets/data"
SNAP = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
GROUPLENS = "https://files.grouplens.org/datasets/movielens"

PAGE_2014 = "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html"
PAGE_2018 = "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/"
PAGE_2023 = "https://amazon-reviews-2023.github.io/"
PAGE_YELP = "https://business.yelp.com/data/resources/open-dataset/"

AMAZON_TERMS = "no licence is stated; the page asks to cite its paper"
MOVIELENS_TERMS = "research use; to be acknowledged in publications, no commercial use without permission"

CATEGORIES_2014 = (
    "Amazon_Instant_Video",
    "Apps_for_Android",
    "Automotive",
    "Baby",
    "Beauty",
    "Books",
    "CDs_and_Vinyl",
    "Cell_Phones_and_Accessories",
    "Clothing_Shoes_and_Jewelry",
    "Digital_Music",
    "Electronics",
    "Grocery_and_Gourmet_Food",
    "Health_and_Personal_Care",
    "Home_and_Kitchen",
    "Kindle_Store",
    "Movies_and_TV",
    "Musical_Instruments",
    "Office_Products",
    "Patio_Lawn_and_Garden",
    "Pet_Supplies",
    "Sports_and_Outdoors",
    "Tools_and_Home_Improvement",
    "Toys_and_Games",
    "Video_Games",
)
CATEGORIES_2018 = (
    "AMAZON_FASHION",
    "All_Beauty",
    "Appliances",
    "Arts_Crafts_and_Sewing",
    "Automotive",
    "Books",
    "CDs_and_Vinyl",
    "Cell_Phones_and_Accessories",
    "Clothing_Shoes_and_Jewelry",
    "Digital_Music",
    "Electronics",
    "Gift_Cards",
    "Grocery_and_Gourmet_Food",
    "Home_and_Kitchen",
    "Industrial_and_Scientific",
    "Kindle_Store",
    "Luxury_Beauty",
    "Magazine_Subscriptions",
    "Movies_and_TV",
    "Musical_Instruments",
    "Office_Products",
    "Patio_Lawn_and_Garden",
    "Pet_Supplies",
    "Prime_Pantry",
    "Software",
    "Sports_and_Outdoors",
    "Tools_and_Home_Improvement",
    "Toys_and_Games",
    "Video_Games",
)
CATEGORIES_2023 = (
    "All_Beauty",
    "Amazon_Fashion",
    "Appliances",
    "Arts_Crafts_and_Sewing",
    "Automotive",
    "Baby_Products",
    "Beauty_and_Personal_Care",
    "Books",
    "CDs_and_Vinyl",
    "Cell_Phones_and_Accessories",
    "Clothing_Shoes_and_Jewelry",
    "Digital_Music",
    "Electronics",
    "Gift_Cards",
    "Grocery_and_Gourmet_Food",
    "Handmade_Products",
    "Health_and_Household",
    "Health_and_Personal_Care",
    "Home_and_Kitchen",
    "Industrial_and_Scientific",
    "Kindle_Store",
    "Magazine_Subscriptions",
    "Movies_and_TV",
    "Musical_Instruments",
    "Office_Products",
    "Patio_Lawn_and_Garden",
    "Pet_Supplies",
    "Software",
    "Sports_and_Outdoors",
    "Subscription_Boxes",
    "Tools_and_Home_Improvement",
    "Toys_and_Games",
    "Video_Games",
)


@dataclass(frozen=True)
class RemoteFile:
    """A file at an address; `checksum` is "algorithm:hex" as its publisher states it."""

    url: str
    size: int | None = None
    checksum: str | None = None

    @property
    def name(self) -> str:
        """The name that the file is kept under."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class PublicSet:
    """The files of a data set, the format (a key of SOURCES) that reads them, and the terms it comes with.

    A set without files has no public address: it is to be had on its page only.
    """

    format: str
    page: str
    terms: str
    files: tuple[RemoteFile, ...] = ()


def _amazon(year: str, page: str, urls: Iterable[str]) -> PublicSet:
    return PublicSet(f"amazon{year}", page, AMAZON_TERMS, tuple(map(RemoteFile, urls)))


def _of_2014(category: str) -> dict[str, PublicSet]:
    urls = (f"{SNAP}/reviews_{category}_5.json.gz", f"{SNAP}/meta_{category}.json.gz")
    return {f"amazon2014/{_slug(category)}": _amazon("2014", PAGE_2014, urls)}


def _of_2018(category: str) -> dict[str, PublicSet]:
    base = f"{UCSD}/amazon_v2"
    urls = (f"{base}/categoryFilesSmall/{category}_5.json.gz", f"{base}/metaFiles2/meta_{category}.json.gz")
    return {f"amazon2018/{_slug(category)}": _amazon("2018", PAGE_2018, urls)}


def _of_2023(category: str) -> dict[str, PublicSet]:
    """The raw files, and for either core the ratings as one file and as the official split by time."""
    base, name = f"{UCSD}/amazon_2023", f"amazon2023/{_slug(category)}"
    meta = f"{base}/raw/meta_categories/meta_{category}.jsonl.gz"
    found = {name: _amazon("2023", PAGE_2023, (f"{base}/raw/review_categories/{category}.jsonl.gz", meta))}
    for core in ("0core", "5core"):
        folder = f"{base}/benchmark/{core}"
        ratings = f"{folder}/rating_only/{category}.csv.gz"
        splits = [f"{folder}/timestamp_w_his/{category}.{part}.csv.gz" for part in ("train", "valid", "test")]
        found[f"{name}-{core}"] = _amazon("2023", PAGE_2023, (ratings, meta))
        found[f"{name}-{core}-split"] = _amazon("2023", PAGE_2023, (*splits, meta))
    return found


def _movielens(size: str, length: int, md5: str) -> dict[str, PublicSet]:
    file = RemoteFile(f"{GROUPLENS}/ml-{size}.zip", length, f"md5:{md5}")
    page = f"https://grouplens.org/datasets/movielens/{size}/"
    return {f"movielens/{size}": PublicSet("movielens", page, MOVIELENS_TERMS, (file,))}


def _slug(category: str) -> str:
    return category.lower().replace("_", "-")


ADDRESSES: dict[str, PublicSet] = {
    **{name: found for category in CATEGORIES_2014 for name, found in _of_2014(category).items()},
    **{name: found for category in CATEGORIES_2018 for name, found in _of_2018(category).items()},
    **{name: found for category in CATEGORIES_2023 for name, found in _of_2023(category).items()},
    **_movielens("1m", 5_917_549, "c4d9eecfca2ab87c1945afe126590906"),
    **_movielens("20m", 198_702_078, "cd245b17a1ae2cc31bb14903e1204af3"),
    **_movielens("32m", 238_950_008, "d472be332d4daa821edc399621853b57"),
    "yelp": PublicSet("yelp", PAGE_YELP, "Yelp's data set agreement, which is accepted on the page"),
}
