"""The records of a CSV file, each with its line; an open quote costs its own line, not what stands behind it."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from streamrec_dist.data.events import Problems

#: A quoted field that is still open after so many lines, or so many characters, was opened by mistake.
MOST_LINES = 1_000
MOST_CHARACTERS = 1 << 24

# Python's own limit, 131,072 characters a field, is below what item texts can have. It holds for the process.
csv.field_size_limit(MOST_CHARACTERS)


def csv_records(
    path: Path, problems: Problems, short: Collection[str] = ()
) -> Iterator[tuple[int, list[str]]]:
    """The non-empty records of a CSV file, the header first, each with the number of the line where it begins.

    Quoted fields may go over lines, but those of the columns `short` do not. A record that is malformed or has
    not as many fields as the header is a problem of kind "broken_line". If it goes over lines, it is taken for
    the work of a stray quote: only its first line is left out, and reading goes on with the next one.
    """
    lines = _Lines(path, problems)
    reader = csv.reader(lines, strict=True)
    header: list[str] = []
    names: list[str] = []
    narrow: list[int] = []
    while True:
        lines.begin()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            quoted = any('"' in text for _, text in lines.record)
            problems.bad(
                "broken_line",
                f"{path}:{lines.first}",
                f"malformed CSV ({error})" + ("; is a quote left open?" if quoted else ""),
            )
            lines.give_back()
            continue
        if cells is None:
            return
        if not cells:
            continue
        if not header:
            header = cells
            names = [name.strip() for name in header]
            narrow = [place for place, name in enumerate(names) if name in short]
            yield lines.first, cells
        elif len(cells) != len(header):
            problems.bad(
                "broken_line",
                f"{path}:{lines.first}",
                f"expected {len(header)} fields ({', '.join(names)}), found {len(cells)}; quote fields "
                f"that hold commas{lines.extent()}",
            )
            lines.give_back(closed=True)
        elif len(lines.record) > 1 and (broken := [names[place] for place in narrow if "\n" in cells[place]]):
            problems.bad(
                "broken_line",
                f"{path}:{lines.first}",
                f"{broken[0]}: expected one line{lines.extent()}",
            )
            lines.give_back(closed=True)
        else:
            yield lines.first, cells


class _Lines:
    """The lines of a CSV file for csv.reader. `record` has those of the record being read, (number, text) each."""

    def __init__(self, path: Path, problems: Problems):
        self.record: list[tuple[int, str]] = []
        self._again: deque[tuple[int, str]] = deque()
        self._fresh = _decoded(path, problems)
        self._characters = 0

    @property
    def first(self) -> int:
        """The number of the line where the record begins."""
        return self.record[0][0] if self.record else 0

    def begin(self) -> None:
        """What comes next is another record."""
        self.record, self._characters = [], 0

    def give_back(self, closed: bool = False) -> None:
        """All lines of the record but the first will come once more.

        With `closed` the last one holds the quote that ended the record. If its quotes have no partners in the
        line itself, it is as broken as the first, and does not come again.
        """
        rest = self.record[1:]
        if closed and rest and rest[-1][1].count('"') % 2:
            rest.pop()
        self._again.extendleft(reversed(rest))

    def extent(self) -> str:
        """For messages: how far the record goes, if it goes over lines."""
        return (
            f"; is a quote left open? the record ends on line {self.record[-1][0]}" if self.record[1:] else ""
        )

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if len(self.record) >= MOST_LINES or (self.record and self._characters > MOST_CHARACTERS):
            raise csv.Error(f"a quoted field goes on over {len(self.record)} lines")
        line = self._again.popleft() if self._again else next(self._fresh)
        self.record.append(line)
        self._characters += len(line[1])
        return line[1]


def _decoded(path: Path, problems: Problems) -> Iterator[tuple[int, str]]:
    number = 0
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        for line in _whole(path, stream, problems):
            number += 1
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                problems.bad(
                    "not_utf8",
                    f"{path}:{number}",
                    f"not UTF-8 ({error.reason}); convert the file to UTF-8",
                )


def _whole(path: Path, stream: Any, problems: Problems) -> Iterator[bytes]:
    number = 1
    try:
        while line := stream.readline(MOST_CHARACTERS + 1):
            if len(line) > MOST_CHARACTERS:
                # A packed file of a few bytes can unpack to a line that fills all memory.
                problems.bad("broken_line", f"{path}:{number}", f"more than {MOST_CHARACTERS} bytes long")
                return
            yield line
            number += 1
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        problems.bad(
            "damaged_file",
            f"{path}:{number}",
            f"damaged or truncated gzip ({error}); copy the file again",
        )
