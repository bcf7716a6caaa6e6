"""MovieLens 1M (ratings.dat, movies.dat) and 20M or 32M (ratings.csv, movies.csv), unpacked or in the zip."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from streamrec_dist.data.events import EVENTS, ITEMS, Problems, batches
from streamrec_dist.data.sources.fields import clean_text, identifier, milliseconds, parsed, rating
from streamrec_dist.data.sources.lines import DAMAGE, TextFile
from streamrec_dist.data.sources.locate import find_one, names_in
from streamrec_dist.data.sources.records import csv_records, rows, separated_records
from streamrec_dist.errors import DataError

RATINGS = ("userId", "movieId", "rating", "timestamp")
MOVIES = ("movieId", "title", "genres")
NO_GENRES = "(no genres listed)"
EXPECTED = "ratings.dat and movies.dat, ratings.csv and movies.csv, or the zip that holds them"


class MovieLens:
    """Ratings of films: `path` is the folder with the two files or with the zip, or the zip."""

    def __init__(self, path: Path) -> None:
        """Finds the files. Raises DataError where one is missing or several could be meant."""
        if path.is_dir() and not {"ratings.dat", "ratings.csv"} & set(names_in(path, EXPECTED)):
            path = path / find_one(path, r"ml-.+\.zip", EXPECTED).string
        files = _members(path) if path.is_file() else _in_folder(path)
        ratings = [name for name in ("ratings.dat", "ratings.csv") if name in files]
        if len(ratings) != 1:
            raise DataError(f"{path}: expected {EXPECTED}, found {', '.join(files) or 'no files'}")
        self._ratings = files[ratings[0]]
        movies = ratings[0].replace("ratings", "movies")
        if movies not in files:
            raise DataError(f"{path}: expected {movies} beside {ratings[0]}, found {', '.join(files)}")
        self._movies = files[movies]
        self.name = path.stem if path.is_file() else path.resolve().name

    def events(self, problems: Problems) -> Iterator[pa.RecordBatch]:
        """Batches of schema EVENTS, in the order of the file."""
        records = _records(self._ratings, problems, RATINGS)
        return batches(rows(records, self._ratings, problems, _rating_row), EVENTS)

    def items(self, problems: Problems) -> Iterator[pa.RecordBatch]:
        """Batches of schema ITEMS, in the order of the file; genres are the categories."""
        records = _records(self._movies, problems, MOVIES)
        return batches(rows(records, self._movies, problems, _movie_row), ITEMS)


def _in_folder(path: Path) -> dict[str, TextFile]:
    return {name: TextFile(path / name) for name in names_in(path, EXPECTED)}


def _members(path: Path) -> dict[str, TextFile]:
    """The files in the zip by the last part of their names."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    except (*DAMAGE, OSError) as error:
        raise DataError(
            f"{path}: expected a zip archive, found a damaged or truncated file ({error}); fetch it again"
        ) from error
    return {PurePosixPath(name).name: TextFile(path, name) for name in names}


def _records(
    file: TextFile, problems: Problems, columns: Sequence[str]
) -> Iterator[tuple[int, Sequence[str]]]:
    if str(file).endswith(".dat"):
        return separated_records(file, problems, "::", len(columns), "latin-1")
    return csv_records(file, problems, columns)


def _rating_row(cells: Sequence[str]) -> tuple[Any, ...]:
    user, movie, stars, time = cells
    return (
        identifier(user, "userId"),
        identifier(movie, "movieId"),
        milliseconds(parsed(time, int), "timestamp", unit=1000),
        rating(parsed(stars, float), "rating"),
    )


def _movie_row(cells: Sequence[str]) -> tuple[Any, ...]:
    movie, title, genres = cells
    known = [] if genres == NO_GENRES else genres.split("|")
    return identifier(movie, "movieId"), clean_text(title, "title"), "", clean_text(known, "genres"), ""
