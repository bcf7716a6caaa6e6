"""Records of CSV files: quotes that are left open, fields over many lines, and the place of each record."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from streamrec_dist.data.csv_records import MOST_LINES, csv_records
from streamrec_dist.data.events import Problems
from streamrec_dist.data.prepare import prepare
from streamrec_dist.errors import DataError


def read(path: Path, text: str, *short: str) -> tuple[list[tuple[int, list[str]]], Problems]:
    """The records behind the header, and what was wrong."""
    path.write_text(text)
    problems = Problems("skip")
    return list(csv_records(path, problems, short))[1:], problems


def shop(folder: Path, rows: list[str], packed: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    text = "\n".join(["user,item,timestamp", *rows]) + "\n"
    if packed:
        (folder / "interactions.csv.gz").write_bytes(gzip.compress(text.encode()))
    else:
        (folder / "interactions.csv").write_text(text)
    (folder / "items.csv").write_text("item,title\n" + "".join(f"p{n},t\n" for n in range(9)))
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_an_open_quote_costs_its_own_line(tmp_path: Path, packed: bool):
    rows = [f"u{n % 50},p{n % 9},{1_600_000_000 + n}" for n in range(3000)]
    rows[100] = 'u0,"p1,1600000100'
    source = shop(tmp_path / "in", rows, packed)
    with pytest.raises(
        DataError, match=r"interactions\.csv(\.gz)?:102: malformed CSV .*is a quote left open"
    ):
        prepare(source, "csv", tmp_path / "out")
    ds = prepare(source, "csv", tmp_path / "out", on_error="skip")
    assert (ds.n_interactions, ds.problems) == (2999, {"broken_line": 1})
    assert ":102: " in ds.examples[0]


@pytest.mark.parametrize(
    ("opening", "closing", "problems"),
    [
        # A quoted field further down ends it with text behind the quote.
        ('u0,"p1,1600000100', 'u0,"p1",1600000300', {"broken_line": 1}),
        # A quote further down ends it, and the fields are not as many as in the header.
        ('u0,"p1,1600000100', 'u0,p1,1600000300"', {"broken_line": 1}),
        # It ends in such a way that the number of fields is right.
        ('u0,p1,"1600000100', 'u0,p1,1600000300"', {"broken_line": 1}),
        ('u0,"p1,1600000100', 'u0,p1",1600000300', {"broken_line": 1}),
    ],
)
def test_an_open_quote_takes_no_lines_with_it_where_another_ends_it(
    tmp_path: Path, opening: str, closing: str, problems: dict[str, int]
):
    rows = [f"u{n % 50},p{n % 9},{1_600_000_000 + n}" for n in range(500)]
    rows[100], rows[300] = opening, closing
    ds = prepare(shop(tmp_path / "in", rows), "csv", tmp_path / "out", on_error="skip")
    assert ds.problems == problems
    assert ds.n_interactions == (499 if '"p1"' in closing else 498)
    assert "interactions.csv:102: " in ds.examples[0]


def test_every_open_quote_is_named_by_its_line(tmp_path: Path):
    rows = [f"u{n},p{n}" for n in range(4 * MOST_LINES)]
    for place in (10, 11, 2000, 3990):
        rows[place] = f'u{place},"p'
    found, problems = read(tmp_path / "a.csv", "\n".join(["user,item", *rows]))
    assert problems.counts == {"broken_line": 4}
    assert [example.split(": ")[0].rpartition(":")[2] for example in problems.examples] == [
        str(place + 2) for place in (10, 11, 2000, 3990)
    ]
    assert [cells[0] for _, cells in found] == [
        f"u{n}" for n in range(4 * MOST_LINES) if n not in (10, 11, 2000, 3990)
    ]


def test_a_field_may_go_over_lines_and_its_record_is_where_it_begins(tmp_path: Path):
    text = "\n".join(f"line {n}, and more" for n in range(MOST_LINES))
    found, problems = read(tmp_path / "a.csv", f'item,text\na,"{text}"\n\nb,"one ""two""\r\nthree"\r\nc,x\n')
    assert not problems.counts
    assert found == [
        (2, ["a", text]),
        (MOST_LINES + 3, ["b", 'one "two"\r\nthree']),
        (MOST_LINES + 5, ["c", "x"]),
    ]


def test_a_field_over_too_many_lines_is_a_problem(tmp_path: Path):
    text = "x\n" * MOST_LINES
    found, problems = read(tmp_path / "a.csv", f'item,text\na,"{text}"\nb,y\n')
    assert problems.examples[0].endswith(
        f"a.csv:2: malformed CSV (a quoted field goes on over {MOST_LINES} lines); is a quote left open?"
    )
    assert (MOST_LINES + 3, ["b", "y"]) in found


def test_ids_are_on_one_line_and_texts_need_not_be(tmp_path: Path):
    text = 'item,title\n"a\nb",c\nd,"e\nf"\n'
    found, problems = read(tmp_path / "a.csv", text, "item")
    assert found == [(4, ["d", "e\nf"])]
    assert problems.examples[0].endswith(
        "a.csv:2: item: expected one line; is a quote left open? the record ends on line 3"
    )
    assert read(tmp_path / "a.csv", text)[0][0] == (2, ["a\nb", "c"])


def test_a_long_text_is_kept(tmp_path: Path):
    (tmp_path / "in").mkdir()
    long = "word " * 60_000
    (tmp_path / "in" / "items.csv").write_text(f"item,title,description\na,A,{long}\nb,B,\nc,C,\n")
    (tmp_path / "in" / "interactions.csv").write_text("user,item\nu,a\nu,b\nu,c\n")
    ds = prepare(tmp_path / "in", "csv", tmp_path / "out")
    assert ds.texts[0] == "A. " + long.strip()


def test_the_place_of_an_event_is_where_its_record_begins(tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "items.csv").write_text("item,title\na,A\n")
    (tmp_path / "in" / "interactions.csv").write_text('user,item,review\nu,a,"x\ny\nz"\nu,b,"x\ny"\n')
    with pytest.raises(DataError, match=r"interactions\.csv:5: item 'b' is not in"):
        prepare(tmp_path / "in", "csv", tmp_path / "out")
