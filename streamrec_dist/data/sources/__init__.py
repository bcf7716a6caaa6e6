"""Raw formats of public data sets, each read as a stream of events and items."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from streamrec_dist.data.events import Source
from streamrec_dist.data.sources.amazon2014 import Amazon2014
from streamrec_dist.data.sources.amazon2018 import Amazon2018
from streamrec_dist.data.sources.amazon2023 import Amazon2023
from streamrec_dist.data.sources.movielens import MovieLens
from streamrec_dist.data.sources.yelp import Yelp

SOURCES: dict[str, Callable[[Path], Source]] = {
    "amazon2014": Amazon2014,
    "amazon2018": Amazon2018,
    "amazon2023": Amazon2023,
    "yelp": Yelp,
    "movielens": MovieLens,
}
DESCRIPTIONS = {
    "amazon2014": "Amazon reviews of 2014: reviews_X.json.gz and meta_X.json.gz",
    "amazon2018": "Amazon reviews of 2018: X.json.gz or X_5.json.gz, and meta_X.json.gz",
    "amazon2023": "Amazon reviews of 2023: X.jsonl.gz or the official csv files, and meta_X.jsonl.gz",
    "yelp": "Yelp open data set: reviews and businesses, unpacked or the .tar",
    "movielens": "MovieLens 1M, 20M and 32M: unpacked or the zip",
}
