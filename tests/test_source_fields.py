"""The fields of raw records: what counts as an id, a rating, a time and a text."""

from __future__ import annotations

import pytest

from streamrec_dist.data.sources.fields import (
    BadField,
    clean_text,
    identifier,
    milliseconds,
    parsed,
    prose,
    rating,
)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(None, "missing_field"), ("", "missing_field"), (7, "bad_id"), (["x"], "bad_id"), ("\ud800", "bad_id")],
)
def test_what_is_no_id(value: object, kind: str):
    with pytest.raises(BadField, match="asin") as caught:
        identifier(value, "asin")
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "missing_field"),
        ("5.0", "bad_rating"),
        (True, "bad_rating"),
        (float("nan"), "bad_rating"),
        (float("-inf"), "bad_rating"),
        ([5], "bad_rating"),
    ],
)
def test_what_is_no_rating(value: object, kind: str):
    with pytest.raises(BadField, match="overall") as caught:
        rating(value, "overall")
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "missing_field"),
        (-1, "bad_time"),
        (1393545600.0, "bad_time"),
        ("1393545600", "bad_time"),
        (True, "bad_time"),
        (1393545600000, "bad_time"),
        (10**30, "bad_time"),
    ],
)
def test_what_is_no_time_in_seconds(value: object, kind: str):
    with pytest.raises(BadField, match="unixReviewTime") as caught:
        milliseconds(value, "unixReviewTime", unit=1000)
    assert caught.value.kind == kind


def test_values_as_they_should_be():
    assert identifier("Bücher", "asin") == "Bücher"
    assert rating(4, "overall") == 4
    assert rating(parsed("3.5", float), "rating") == 3.5
    assert milliseconds(0, "t") == 0
    assert milliseconds(parsed("1393545600", int), "t", unit=1000) == 1393545600000
    assert parsed("x", int) == "x"


def test_text_is_unescaped_freed_of_tags_composed_and_collapsed():
    assert clean_text("  AT&amp;T&nbsp;&#39;x&#39;\n\t y ", "title") == "AT&T 'x' y"
    assert clean_text("Cafe\u0301 &eacute;", "title") == "Café é"
    assert clean_text("<b>Bold</b><br/>a <3 b, 5 &lt; 6", "title") == "Bold a <3 b, 5 < 6"
    assert clean_text(["A &amp; B", "", "C"], "category") == "A & B, C"
    assert clean_text(None, "title") == ""
    assert prose(["One.", "", "Two."], "description") == "One. Two."
    assert prose("One.", "description") == "One."
    with pytest.raises(BadField, match="title: expected text or a list of texts, found int 3"):
        clean_text(3, "title")
    with pytest.raises(BadField, match="surrogate"):
        prose(["\ud83d"], "description")
