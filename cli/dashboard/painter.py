"""The terminal: a screen of lines, of which only those are written that changed."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

#: The alternate screen, so that what was there comes back; no cursor; lines that are too long end at the edge.
ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
LEAVE = "\x1b[m\x1b[?7h\x1b[?25h\x1b[?1049l"
#: What is between these is shown at once, by terminals that know them.
BEGIN, END = "\x1b[?2026h", "\x1b[?2026l"
CLEAR, CLEAR_LINE = "\x1b[2J", "\x1b[2K"
#: Characters about whose width terminals do not agree: what a line with them leaves behind is unknown.
UNSURE = re.compile("[^\x00-\u02ff\u2010-\u2bff]")


class Painter:
    """Writes to the terminal `descriptor`, between `enter` and `leave`."""

    def __init__(self, descriptor: int, encoding: str):
        self.descriptor, self.encoding = descriptor, encoding
        self.shown: list[str] = []

    def enter(self) -> None:
        self._write(ENTER)
        self.shown = []

    def leave(self, last: Sequence[str] = ()) -> None:
        """Bring back what was there before, with some lines below it."""
        self._write(LEAVE + "".join(f"{row}\r\n" for row in last))

    def forget(self) -> None:
        """Take nothing for granted that was written: the next screen is written whole."""
        self.shown = []

    def show(self, rows: Sequence[str]) -> None:
        """Have the terminal show these rows, of as many cells as it is wide."""
        changed = []
        if len(self.shown) != len(rows):
            changed.append(CLEAR)
            self.shown = [""] * len(rows)
        for number, (before, row) in enumerate(zip(self.shown, rows, strict=True), start=1):
            if row != before:
                clear = CLEAR_LINE if UNSURE.search(before) or UNSURE.search(row) else ""
                changed.append(f"\x1b[{number};1H{clear}{row}")
        self.shown = list(rows)
        if changed:
            self._write(BEGIN + "".join(changed) + END)

    def _write(self, text: str) -> None:
        left = text.encode(self.encoding, "replace")
        while left:
            left = left[os.write(self.descriptor, left) :]
