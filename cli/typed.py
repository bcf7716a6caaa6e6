"""Numbers as they are typed."""

from __future__ import annotations

import re

#: str.isdigit is true of ² too, and int refuses what is longer than 4,300 digits.
NUMBER = re.compile(r"[0-9]{1,18}")


def whole_number(text: str) -> int | None:
    """The number that was typed, or None where it is none."""
    return int(text) if NUMBER.fullmatch(text) else None
