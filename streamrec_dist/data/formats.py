"""The formats that can be read, by name: the one list that the configuration and the commands share."""

from __future__ import annotations

from typing import Literal, get_args

#: A new format is one word here, and one line in the table of readers.py.
Format = Literal[
    "demo", "lcrec", "csv", "parquet", "amazon2014", "amazon2018", "amazon2023", "yelp", "movielens"
]
FORMATS: tuple[str, ...] = get_args(Format)
#: The built-in data set is made, not read.
DEMO = "demo"
