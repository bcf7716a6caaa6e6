"""The fields of a record: ids, ratings, times and texts, checked and brought to one form."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from streamrec_dist.data.raw import clean_text as composed
from streamrec_dist.data.raw import field_text, is_unicode, shown
from streamrec_dist.errors import DataError

#: Milliseconds since 1970 of the year 2100; a time beyond it was counted in another unit.
LATEST = 4_102_444_800_000
TAG = re.compile(r"</?[A-Za-z][^<>]*>")


class BadField(DataError):
    """A field that makes its record unusable; `kind` is what problems of this sort are counted as."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def identifier(value: object, name: str) -> str:
    """The id of a user or an item: text that is not empty. Raises BadField."""
    if type(value) is str and value:
        if value.isascii() or is_unicode(value):
            return value
        raise BadField("bad_id", f"{name}: half of a surrogate pair, which is not valid Unicode")
    if value is None or value == "":
        raise BadField("missing_field", f"the field {name} is missing or empty")
    raise BadField("bad_id", f"{name}: expected text as the id, found {shown(value)}")


def rating(value: object, name: str) -> float:
    """A finite number. Raises BadField."""
    if isinstance(value, float | int) and not isinstance(value, bool) and abs(value) < 1e9:
        return value
    if value is None:
        raise BadField("missing_field", f"the field {name} is missing")
    raise BadField("bad_rating", f"{name}: expected a number as the rating, found {shown(value)}")


def milliseconds(value: object, name: str, unit: int = 1) -> int:
    """A time in whole units since 1970, each of `unit` milliseconds, as milliseconds. Raises BadField."""
    if type(value) is int and 0 <= value * unit < LATEST:
        return value * unit
    if value is None:
        raise BadField("missing_field", f"the field {name} is missing")
    unit_name = "seconds" if unit == 1000 else "milliseconds"
    raise BadField(
        "bad_time", f"{name}: expected a whole number of {unit_name} since 1970, found {shown(value)}"
    )


def parsed(text: str, kind: Callable[[str], Any]) -> Any:
    """`text` read as int or float, or `text` itself where it is none, for the check that follows to refuse."""
    try:
        return kind(text)
    except ValueError:
        return text


def clean_text(value: object, name: str) -> str:
    """A text or a list of texts (joined by commas) as one clean line; None is "".

    HTML entities become characters, tags go, white space is collapsed, Unicode is in the composed form (NFC).
    Raises BadField for anything else.
    """
    try:
        text = field_text(value, name)
    except DataError as error:
        raise BadField("bad_text", str(error)) from error
    text = composed(text)
    return " ".join(TAG.sub(" ", text).split()) if "<" in text else text


def prose(value: object, name: str) -> str:
    """As clean_text, but the paragraphs of a list follow one another without commas."""
    paragraphs = value if isinstance(value, list) else [value]
    return " ".join(filter(None, (clean_text(paragraph, name) for paragraph in paragraphs)))
