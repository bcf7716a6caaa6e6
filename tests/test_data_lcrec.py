"""The LC-Rec reader: small files by hand, every kind of damage, and the real data."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from streamrec_dist.data.events import OnError
from streamrec_dist.data.prepare import prepare
from streamrec_dist.data.reader_lcrec import LcrecSource
from streamrec_dist.errors import DataError

REAL = Path(__file__).parents[1].parent / "shared" / "data"
ITEMS = {str(number): {"title": f"Thing {number}"} for number in range(4)}
INTER = {"0": [0, 1, 2], "1": [3, 2, 1, 0]}


def write(folder: Path, inter: Any = INTER, items: Any = ITEMS) -> Path:
    for kind, content in (("inter", inter), ("item", items)):
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"Toy.{kind}.json").write_text(text)
    return folder


def test_a_small_set_by_hand(tmp_path: Path):
    items = {
        "1": {"title": "", "brand": " Acme ", "categories": "A,B", "description": None},
        "0": {
            "title": "Red   Pen.",
            "brand": "Acme",
            "categories": ["A", "", "B"],
            "description": "Writes.\nRed.",
        },
        "2": {"asin": "B0", "lexical_id": "secret words"},
        "3": {"title": "Ink", "brand_categories": ["Acme", "Office"], "lexical_id": "secret"},
    }
    raw = prepare(write(tmp_path, items=items), "lcrec", tmp_path / "out")
    assert raw.name == "Toy"
    assert raw.items.tolist() == [0, 1, 2, 3, 2, 1, 0]
    assert raw.offsets.tolist() == [0, 3, 7]
    assert raw.user_ids == ["0", "1"]
    assert raw.item_ids == ["0", "1", "2", "3"]
    assert raw.titles == ["Red Pen.", "", "", "Ink"]
    assert raw.texts == [
        "Red Pen. Brand: Acme. Categories: A, B. Writes. Red",
        "Brand: Acme. Categories: A,B",
        "",
        "Ink. Categories: Acme, Office",
    ]
    assert raw.notes["items_without_text"] == 2
    assert raw.notes["items_without_any_field"] == 1


def test_gzip_and_plain_read_the_same(tmp_path: Path):
    plain = prepare(write(tmp_path), "lcrec", tmp_path / "plain")
    for kind in ("inter", "item"):
        file = tmp_path / f"Toy.{kind}.json"
        (tmp_path / f"Toy.{kind}.json.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    packed = prepare(tmp_path, "lcrec", tmp_path / "packed")
    assert packed.content_hash == plain.content_hash


@pytest.mark.parametrize(
    ("inter", "items", "message"),
    [
        ('{"0": [0, 1,\n 2', ITEMS, r"inter\.json:2: malformed or truncated JSON"),
        (INTER, '{"0": {"title": "x"},}', r"item\.json:1: malformed"),
        ([], ITEMS, r"inter\.json: expected a JSON object at the top, found list"),
        ('{"0": [0, 1, 2], "0": [1, 2, 3]}', ITEMS, r"inter\.json: the key '0' occurs twice"),
        (INTER, '{"0": {}, "1": {}, "1": {}}', r"item\.json: the key '1' occurs twice"),
        ({"7": 3}, ITEMS, r"inter\.json: user '7': expected a list of item numbers, found int 3"),
        ({"7": [0, 1, -1]}, ITEMS, r"user '7', entry 2: expected an item number .* found int -1"),
        ({"7": [0, 1.5, 2]}, ITEMS, r"user '7', entry 1: .* found float 1\.5"),
        ({"7": [0, "1", 2]}, ITEMS, r"user '7', entry 1: .* found str '1'"),
        ({"7": [0, True, 2]}, ITEMS, r"user '7', entry 1: .* found bool True"),
        ({"7": [0, None, 2]}, ITEMS, r"user '7', entry 1: .* found NoneType"),
        ({"7": [0, 1, 4]}, ITEMS, r"user '7', entry 2: item 4 is not in the item file.* 0 \.\. 3"),
        (INTER, {"0": {}, "1": {}, "3": {}}, r"item\.json: 3 items must be numbered 0 \.\. 2, but item 2 is missing"),
        (INTER, {"B00": {}}, r"record 'B00': expected an item number"),
        (INTER, {"-1": {}}, r"record '-1': expected an item number"),
        (INTER, {"01": {}}, r"record '01': expected an item number"),
        (INTER, {"0": "a pen"}, r"record '0': expected an object with a title, found str 'a pen'"),
        (INTER, {"0": {"title": 5}}, r"record '0', field 'title': expected text or a list of texts, found int 5"),
        (INTER, {"0": {"brand": ["a", {}]}}, r"record '0', field 'brand': expected text"),
        (INTER, '{"0": {"title": "\\ud800"}}', r"field 'title': half of a surrogate pair"),
        (INTER, {}, r"entry 0: item 0 is not in the item file"),
        ({}, {}, r"the catalogue is empty"),
        ({}, ITEMS, r"inter\.json: there are no users"),
        ({"a": [0, 1, 2], "b": [1, 2], "d": [3]}, ITEMS, r"'b' has 2 item\(s\), and 2 of 3 users have"),
        ({"a": [0, 1, 2], "c": []}, ITEMS, r"inter\.json: user 'c': has 0 items"),
    ],
)  # fmt: skip
def test_bad_content_is_named_and_nothing_is_written(tmp_path: Path, inter: Any, items: Any, message: str):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in", inter, items)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path / "in", "lcrec", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_broken_records_are_left_out_and_counted_where_that_is_asked_for(tmp_path: Path):
    (tmp_path / "in").mkdir()
    inter = {**INTER, "2": [0, 9, 1], "3": [], "4": "all", "5": [1, 2]}
    items = {**ITEMS, "4": {"title": 5}, "5": {"title": "Caf&eacute;  &amp; more"}}
    ds = prepare(write(tmp_path / "in", inter, items), "lcrec", tmp_path / "out", on_error="skip")
    assert ds.user_ids == ["0", "1"]
    assert ds.titles == ["Thing 0", "Thing 1", "Thing 2", "Thing 3", "", "Café & more"]
    assert ds.problems == {"broken_history": 3, "broken_item": 1, "user_too_short": 1}
    assert any("user '2', entry 1: item 9" in example for example in ds.examples)


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_damaged_files_are_named(tmp_path: Path, on_error: OnError):
    write(tmp_path)
    packed = gzip.compress(json.dumps(INTER).encode())
    (tmp_path / "Toy.inter.json").unlink()
    file = tmp_path / "Toy.inter.json.gz"
    for content in (packed[:-12], b"not gzip at all", packed[:20] + b"\xff\xff" + packed[22:]):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"Toy\.inter\.json\.gz: damaged or truncated gzip"):
            prepare(tmp_path, "lcrec", tmp_path / "out", on_error=on_error)
    file.write_bytes(gzip.compress(b'{"\xff": []}'))
    with pytest.raises(DataError, match="byte 2 is not UTF-8"):
        prepare(tmp_path, "lcrec", tmp_path / "out", on_error=on_error)


def test_missing_and_ambiguous_files_are_named(tmp_path: Path):
    with pytest.raises(DataError, match="expected a folder"):
        LcrecSource(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"\*\.inter\.json or \.json\.gz, found none"):
        LcrecSource(tmp_path)
    write(tmp_path)
    (tmp_path / "Other.inter.json").write_text("{}")
    with pytest.raises(DataError, match=r"found Other\.inter\.json, Toy\.inter\.json"):
        LcrecSource(tmp_path)
    (tmp_path / "Other.inter.json").unlink()
    (tmp_path / "Toy.item.json").rename(tmp_path / "Another.item.json")
    with pytest.raises(DataError, match=r"Toy\.item\.json or \.json\.gz, found none"):
        LcrecSource(tmp_path)


@pytest.mark.parametrize(
    ("name", "counts", "lengths", "without_title"),
    [
        ("Beauty", (22_363, 12_101, 198_502), (5, 6, 8.9, 204), 7),
        ("Scientific", (8_317, 4_344, 58_492), (5, 6, 7.0, 78), 0),
    ],
)
def test_the_real_sets_have_the_documented_shape(
    tmp_path: Path, name: str, counts: tuple, lengths: tuple, without_title: int
):
    if not (REAL / name).is_dir():
        pytest.skip(f"the real data set {name} is not beside the repository")
    ds = prepare(REAL / name, "lcrec", tmp_path / name)
    shape = ds.describe()
    assert (shape["users"], shape["items"], shape["interactions"]) == counts
    found = (shape["length_min"], shape["length_median"], round(shape["length_mean"], 1), shape["length_max"])
    assert found == lengths
    assert sum(not title for title in ds.titles) == without_title
    assert (shape["items_without_any_field"], shape["items_never_used"], ds.synthetic) == (0, 0, False)
    assert all(ds.texts)
