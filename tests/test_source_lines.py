"""Lines, records and fields of raw files: numbers, damage, and what counts as a value."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from streamrec_dist.data.events import Problems
from streamrec_dist.data.sources.lines import TextFile, read_lines
from streamrec_dist.data.sources.records import csv_records, json_records, separated_records
from streamrec_dist.errors import DataError
from tests.raw_files import skipped, write_lines


def tar_of(path: Path, files: dict[str, bytes], mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def test_lines_are_the_same_from_every_kind_of_file(tmp_path: Path):
    content = "one\r\nzwei ü\n\nlast".encode()
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(content))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("folder/a.txt", content)
    tar_of(tmp_path / "a.tar", {"x/other.txt": b"no\n", "x/a.txt": content})
    tar_of(tmp_path / "packed.tar", {"x/other.txt": b"no\n", "x/a.txt": content}, "w:gz")
    files = [
        TextFile(tmp_path / "a.txt"),
        TextFile(tmp_path / "a.txt.gz"),
        TextFile(tmp_path / "a.zip", "folder/a.txt"),
        TextFile(tmp_path / "a.tar", "a.txt"),
        TextFile(tmp_path / "packed.tar", "a.txt"),
    ]
    for file in files:
        lines = list(read_lines(file, Problems()))
        assert lines == [(1, "one"), (2, "zwei ü"), (3, ""), (4, "last")], str(file)


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbffirst\n\xef\xbb\xbfsecond\n")
    assert [text for _, text in read_lines(TextFile(tmp_path / "a.txt"), Problems())] == [
        "first",
        "\ufeffsecond",
    ]


def test_a_member_that_is_missing_is_named_with_what_is_there(tmp_path: Path):
    path = tar_of(tmp_path / "a.tar", {"x/other.txt": b"no\n"})
    with pytest.raises(DataError, match=r"a\.tar: expected a file a\.txt in the archive, found x/other\.txt"):
        list(read_lines(TextFile(path, "a.txt"), Problems()))


def test_a_truncated_gzip_gives_what_was_before_the_damage(tmp_path: Path):
    random.seed(1)
    lines = [f"{number} {random.random()}" for number in range(5000)]
    path = write_lines(tmp_path / "a.gz", lines)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    read, problems = skipped(lambda problems: list(read_lines(TextFile(path), problems)))
    assert 1000 < len(read) < 4000
    assert [text for _, text in read] == lines[: len(read)]
    assert problems.counts == {"damaged_file": 1}
    assert problems.examples[0].startswith(f"{path}:{len(read) + 1}: damaged or truncated from here on")
    with pytest.raises(DataError, match=rf"a\.gz:{len(read) + 1}: damaged .* {len(read)} lines before it"):
        list(read_lines(TextFile(path), Problems()))


@pytest.mark.parametrize("damage", ["flipped", "no gzip", "checksum", "empty"])
def test_every_damage_of_a_gzip_is_one_problem(tmp_path: Path, damage: str):
    path = write_lines(tmp_path / "a.gz", [f"line {number * 7919 % 1000}" for number in range(5000)])
    packed = bytearray(path.read_bytes())
    if damage == "flipped":
        packed[len(packed) // 2] ^= 0xFF
    elif damage == "checksum":
        packed[-6] ^= 0xFF
    elif damage == "no gzip":
        packed[:] = b"<!DOCTYPE html>\n"
    path.write_bytes(b"" if damage == "empty" else packed)
    _, problems = skipped(lambda problems: list(read_lines(TextFile(path), problems)))
    # A file of no bytes is a valid gzip of nothing.
    assert problems.counts == ({} if damage == "empty" else {"damaged_file": 1})


def test_a_truncated_tar_is_one_problem(tmp_path: Path):
    path = tar_of(tmp_path / "a.tar", {"a.txt": b"0123456789\n" * 3000})
    path.write_bytes(path.read_bytes()[:20_000])
    read, problems = skipped(lambda problems: list(read_lines(TextFile(path, "a.txt"), problems)))
    assert len(read) < 3000
    assert problems.counts == {"damaged_file": 1}


def test_a_line_that_is_not_utf8_is_left_out(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"one\ntw\xe9\nthree\n")
    file = TextFile(tmp_path / "a.txt")
    read, problems = skipped(lambda problems: list(read_lines(file, problems)))
    assert read == [(1, "one"), (3, "three")]
    assert problems.counts == {"not_utf8": 1}
    with pytest.raises(DataError, match=r"a\.txt:2: byte 2 of the line is not utf-8"):
        list(read_lines(file, Problems()))
    assert list(read_lines(file, Problems(), "latin-1"))[1] == (2, "twé")


def test_json_records_skip_empty_lines_and_keep_line_numbers(tmp_path: Path):
    path = write_lines(tmp_path / "a.json", [{"a": 1}, "", "  ", {"a": 2}])
    assert list(json_records(TextFile(path), Problems())) == [(1, {"a": 1}), (4, {"a": 2})]


@pytest.mark.parametrize(
    "line",
    ['{"a": 1', "{'a': 1}", "[1]", "3", "null", '{"a": 1} x', "[" * 100_000],
    ids=["truncated", "literal", "list", "number", "null", "rest", "deep"],
)
def test_a_broken_line_of_json_is_left_out(tmp_path: Path, line: str):
    path = write_lines(tmp_path / "a.json", [{"a": 1}, line, {"a": 2}])
    read, problems = skipped(lambda problems: list(json_records(TextFile(path), problems)))
    assert read == [(1, {"a": 1}), (3, {"a": 2})]
    assert problems.counts == {"broken_line": 1}
    with pytest.raises(DataError, match=r"a\.json:2: expected"):
        list(json_records(TextFile(path), Problems()))


def test_a_python_literal_is_read_and_never_executed(tmp_path: Path):
    trap = tmp_path / "trap"
    hostile = f"__import__('pathlib').Path({str(trap)!r}).touch()"
    lines = [
        "{'a': 'It\\'s \\d', 'b': [['x', 'y']], 'c': None, 'd': True}",
        hostile,
        "{'a': " + hostile + "}",
        "{'a': [x for x in ()]}",
        "{[]: 1}",
        "(" * 5000 + ")" * 5000,
        '{"a": null}',
    ]
    path = write_lines(tmp_path / "a.json", lines)
    read, problems = skipped(lambda problems: list(json_records(TextFile(path), problems, literals=True)))
    assert read == [(1, {"a": "It's \\d", "b": [["x", "y"]], "c": None, "d": True}), (7, {"a": None})]
    assert problems.counts == {"broken_line": 5}
    assert not trap.exists()


def test_csv_records_pick_columns_by_name(tmp_path: Path):
    path = write_lines(tmp_path / "a.csv", ["b,x,a", "1,2,3", '"o, ""n""e",,ü', "", "4,5,6"])
    read = list(csv_records(TextFile(path), Problems(), ("a", "b")))
    assert read == [(2, ("3", "1")), (3, ("ü", 'o, "n"e')), (5, ("6", "4"))]


@pytest.mark.parametrize("line", ["1,2", "1,2,3,4", '1,"2,3', '1,"2"x,3'])
def test_a_broken_line_of_csv_does_not_swallow_the_next(tmp_path: Path, line: str):
    path = write_lines(tmp_path / "a.csv", ["a,b,c", line, "7,8,9"])
    read, problems = skipped(lambda problems: list(csv_records(TextFile(path), problems, ("a", "c"))))
    assert read == [(3, ("7", "9"))]
    assert problems.counts == {"broken_line": 1}
    with pytest.raises(DataError, match=r"a\.csv:2: expected 3 fields"):
        list(csv_records(TextFile(path), Problems(), ("a", "c")))


def test_a_missing_column_stops_even_where_problems_are_skipped(tmp_path: Path):
    path = write_lines(tmp_path / "a.csv", ["user,item", "1,2"])
    with pytest.raises(DataError, match=r"a\.csv:1: the column 'user_id' is missing, did you mean 'user'\?"):
        list(csv_records(TextFile(path), Problems("skip"), ("user_id", "item")))
    (tmp_path / "empty.csv").touch()
    with pytest.raises(DataError, match="the column 'user_id' is missing"):
        list(csv_records(TextFile(tmp_path / "empty.csv"), Problems("skip"), ("user_id", "item")))


def test_separated_records_need_all_their_fields(tmp_path: Path):
    path = write_lines(tmp_path / "a.dat", ["1::A: B::c", "2::x", "3::y::z"])
    read, problems = skipped(
        lambda problems: list(separated_records(TextFile(path), problems, "::", 3, "latin-1"))
    )
    assert read == [(1, ["1", "A: B", "c"]), (3, ["3", "y", "z"])]
    assert problems.examples == [f"{path}:2: expected 3 fields separated by '::', found str '2::x'"]
