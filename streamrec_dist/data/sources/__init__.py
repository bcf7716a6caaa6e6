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
