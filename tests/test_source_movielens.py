"""MovieLens in its two layouts, unpacked and zipped."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from streamrec_dist.data.sources.movielens import MovieLens
from streamrec_dist.errors import DataError
from tests.raw_files import events_of, items_of, skipped

DAT = {
    "ratings.dat": "1::1193::5::978300760\n1::661::3::978302109\n",
    "movies.dat": "1193::Cidade dos Sonhos, é (1975)::Drama|Children's\n661::X: A::B (1996)::Horror\n",
    "users.dat": "1::F::1::10::48067\n",
    "README": "SUMMARY\n",
}
CSV = {
    "ratings.csv": "userId,movieId,rating,timestamp\r\n1,2,3.5,1112486027\r\n2,2,0.5,1112486028\r\n",
    "movies.csv": (
        "movieId,title,genres\r\n"
        '2,"American President, The (1995)",Comedy|Drama\r\n'
        "3,Amélie (2001),(no genres listed)\r\n"
    ),
}
CSV_EVENTS = [("1", "2", 1112486027000, 3.5), ("2", "2", 1112486028000, 0.5)]
CSV_ITEMS = [
    ("2", "American President, The (1995)", "", "Comedy, Drama", ""),
    ("3", "Amélie (2001)", "", "", ""),
]


def write(folder: Path, files: dict[str, str], encoding: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_bytes(text.encode(encoding))
    return folder


def pack(path: Path, files: dict[str, str], encoding: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir(path.stem)
        for name, text in files.items():
            archive.writestr(f"{path.stem}/{name}", text.encode(encoding))
    return path


def test_1m_unpacked_and_zipped(tmp_path: Path):
    folder = write(tmp_path / "ml-1m", DAT, "latin-1")
    archive = pack(tmp_path / "ml-1m.zip", DAT, "latin-1")
    for path in (folder, archive, tmp_path):
        source = MovieLens(path)
        assert source.name == "ml-1m"
        assert events_of(source) == [("1", "1193", 978300760000, 5.0), ("1", "661", 978302109000, 3.0)]
        items, problems = skipped(lambda problems, source=source: items_of(source, problems))
        assert items == [("1193", "Cidade dos Sonhos, é (1975)", "", "Drama, Children's", "")]
        # A title with the separator in it would be cut in the wrong place.
        assert problems.counts == {"broken_line": 1}


def test_20m_unpacked_and_zipped(tmp_path: Path):
    folder = write(tmp_path / "ml-20m", CSV, "utf-8")
    archive = pack(tmp_path / "ml-20m.zip", CSV, "utf-8")
    for path in (folder, archive):
        source = MovieLens(path)
        assert source.name == "ml-20m"
        assert events_of(source) == CSV_EVENTS
        assert items_of(source) == CSV_ITEMS


@pytest.mark.parametrize("layout", ["dat", "csv"])
@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        (("", "2", "5", "1"), "missing_field"),
        (("1", "2", "good", "1"), "bad_rating"),
        (("1", "2", "nan", "1"), "bad_rating"),
        (("1", "2", "5", "1.5"), "bad_time"),
        (("1", "2", "5", ""), "bad_time"),
        (("1", "2", "5"), "broken_line"),
    ],
)
def test_a_bad_rating_stops_or_is_left_out(tmp_path: Path, layout: str, fields: tuple[str, ...], kind: str):
    files: dict[str, Any] = dict(DAT if layout == "dat" else CSV)
    line = ("::" if layout == "dat" else ",").join(fields)
    text = files[f"ratings.{layout}"].replace("\r\n", "\n")
    number = text.count("\n") + 1
    path = pack(
        tmp_path / "ml-x.zip",
        {**files, f"ratings.{layout}": f"{text}{line}\n{text.splitlines()[-1]}\n"},
        "latin-1",
    )
    with pytest.raises(DataError, match=rf"ml-x\.zip/ml-x/ratings\.{layout}:{number}: "):
        events_of(MovieLens(path))
    events, problems = skipped(lambda problems: events_of(MovieLens(path), problems))
    assert len(events) == 3
    assert problems.counts == {kind: 1}


def test_missing_ambiguous_and_damaged_files_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"expected ratings\.dat and movies\.dat, .* found no files"):
        MovieLens(tmp_path)
    (tmp_path / "ratings.dat").touch()
    with pytest.raises(DataError, match=r"expected movies\.dat beside ratings\.dat, found ratings\.dat"):
        MovieLens(tmp_path)
    (tmp_path / "ratings.csv").touch()
    with pytest.raises(DataError, match=r"found ratings\.csv, ratings\.dat"):
        MovieLens(tmp_path)
    path = pack(tmp_path / "ml-1m.zip", DAT, "latin-1")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(
        DataError, match=r"ml-1m\.zip: expected a zip archive, found a damaged or truncated file"
    ):
        MovieLens(path)


def test_damage_inside_a_zip_is_one_problem(tmp_path: Path):
    lines = "".join(f"{n}::{n * 7919 % 1000}::5::{978300760 + n * n % 9973}\n" for n in range(20_000))
    path = pack(tmp_path / "ml-1m.zip", {**DAT, "ratings.dat": lines}, "latin-1")
    packed = bytearray(path.read_bytes())
    packed[len(packed) // 3] ^= 0xFF
    path.write_bytes(packed)
    _, problems = skipped(lambda problems: events_of(MovieLens(path), problems))
    assert problems.counts["damaged_file"] == 1


def test_a_damaged_directory_of_a_zip_is_one_problem(tmp_path: Path):
    path = pack(tmp_path / "ml-1m.zip", DAT, "latin-1")
    packed = bytearray(path.read_bytes())
    entry = packed.index(b"PK\x01\x02")
    for _ in range(2):
        # The compression method of every member in turn, until that of ratings.dat is hit.
        packed[entry + 10 : entry + 12] = b"\x63\x00"
        entry = packed.index(b"PK\x01\x02", entry + 1)
    path.write_bytes(packed)
    events, problems = skipped(lambda problems: events_of(MovieLens(path), problems))
    assert events == []
    assert problems.counts == {"damaged_file": 1}
