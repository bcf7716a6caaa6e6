"""Small data sets in memory, as made by a program; and the fields of an item that become its text."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np

from streamrec_dist.errors import DataError


@dataclass(frozen=True, eq=False)
class RawData:
    """Users, their item sequences and the items' texts.

    `items` int32 [interactions] holds item numbers 0..n_items-1, all users one after the other, oldest first;
    user u owns items[offsets[u]:offsets[u + 1]] (`offsets` int64 [users + 1]). `source` names the place of
    the interactions in error messages. `notes` counts what was allowed but is worth knowing.
    """

    name: str
    source: str
    items: np.ndarray
    offsets: np.ndarray
    user_ids: Sequence[str]
    item_ids: Sequence[str]
    titles: Sequence[str]
    texts: Sequence[str]
    synthetic: bool = False
    notes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ItemFields:
    """The fields of an item that become its text; an absent field is the empty string."""

    title: str = ""
    brand: str = ""
    categories: str = ""
    description: str = ""

    def text(self) -> str:
        """One readable paragraph of all fields, "" where the item has none."""
        parts = [
            self.title,
            f"Brand: {self.brand}" if self.brand else "",
            f"Categories: {self.categories}" if self.categories else "",
            self.description,
        ]
        return ". ".join(part.rstrip(". ") for part in parts if part)


def clean_text(text: str) -> str:
    """HTML entities as characters, Unicode in its composed form (NFC), white space collapsed."""
    text = html.unescape(text) if "&" in text else text
    text = text if text.isascii() else unicodedata.normalize("NFC", text)
    return " ".join(text.split())


def text_notes(fields: Sequence[ItemFields]) -> dict[str, int]:
    """Counts of items with neither title nor description, and of items with no field at all."""
    return {
        "items_without_text": sum(not (f.title or f.description) for f in fields),
        "items_without_any_field": sum(f == ItemFields() for f in fields),
    }


def field_text(value: object, where: str) -> str:
    """A field as clean text: None becomes "", a list is joined by commas, white space is collapsed.

    Raises DataError, naming `where`, for any other type and for text that UTF-8 cannot hold.
    """
    if value is None:
        return ""
    parts = value if isinstance(value, list) else [value]
    texts = [part.strip() for part in parts if isinstance(part, str)]
    if len(texts) < len(parts):
        raise DataError(f"{where}: expected text or a list of texts, found {shown(value)}")
    text = " ".join(", ".join(part for part in texts if part).split())
    if not is_unicode(text):
        raise DataError(f"{where}: half of a surrogate pair, which is not valid Unicode")
    return text


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold a text: JSON can name halves of surrogate pairs, which it cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def suggest(word: str, known: Sequence[str]) -> str:
    """ ", did you mean 'x'?" for the nearest known word, "" where none is near."""
    near = get_close_matches(word, known, n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def shown(value: object) -> str:
    """A value for an error message: its type and its beginning."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        # Nested deeper than Python writes, or an integer of more digits.
        text = "..."
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
