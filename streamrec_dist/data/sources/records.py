"""Lines to records, records to rows: what is unusable is reported with its line and left out."""

from __future__ import annotations

import ast
import csv
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, TypeVar

from streamrec_dist.data.events import Problems
from streamrec_dist.data.raw import shown, suggest
from streamrec_dist.data.sources.fields import BadField
from streamrec_dist.data.sources.lines import TextFile, read_lines
from streamrec_dist.errors import DataError

Record = TypeVar("Record")


def rows(
    records: Iterable[tuple[int, Record]],
    file: TextFile,
    problems: Problems,
    row: Callable[[Record], tuple[Any, ...]],
) -> Iterator[tuple[Any, ...]]:
    """`row(record)` of each record of a file; where it raises BadField, the record is a problem."""
    for number, record in records:
        try:
            made = row(record)
        except BadField as error:
            problems.bad(error.kind, f"{file}:{number}", str(error))
            continue
        yield made


def json_records(
    file: TextFile, problems: Problems, literals: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """One JSON object a line, with the line's number; with `literals` also Python dicts written out."""
    for number, text in read_lines(file, problems):
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            if not text.strip():
                continue
            record = _literal(text) if literals else None
            if record is None:
                wanted = "a JSON object or a Python dict" if literals else "a JSON object"
                problems.bad(
                    "broken_line", f"{file}:{number}", f"expected {wanted}, found {shown(text)} ({error})"
                )
                continue
        if type(record) is dict:
            yield number, record
        else:
            problems.bad("broken_line", f"{file}:{number}", f"expected an object, found {shown(record)}")


def csv_records(
    file: TextFile, problems: Problems, columns: Sequence[str]
) -> Iterator[tuple[int, Sequence[str]]]:
    """The values of `columns` in each line of a CSV file whose first line names its columns.

    A record is one line. Raises DataError where a column is missing, since then no line can be used.
    """
    lines = read_lines(file, problems)
    _, header = next(lines, (1, ""))
    names = _cells(header) or []
    for name in columns:
        if name not in names:
            raise DataError(
                f"{file}:1: the column {name!r} is missing{suggest(name, names)}; expected a header with "
                f"{', '.join(columns)}, found {shown(header)}"
            )
    chosen = itemgetter(*(names.index(name) for name in columns))
    for number, text in lines:
        cells = _cells(text)
        if cells is not None and len(cells) == len(names):
            yield number, chosen(cells)
        elif text.strip():
            problems.bad(
                "broken_line", f"{file}:{number}", f"expected {len(names)} fields, found {shown(text)}"
            )


def separated_records(
    file: TextFile, problems: Problems, separator: str, fields: int, encoding: str
) -> Iterator[tuple[int, list[str]]]:
    """The fields of each line of a file without header or quotes."""
    for number, text in read_lines(file, problems, encoding):
        cells = text.split(separator)
        if len(cells) == fields:
            yield number, cells
        elif text.strip():
            problems.bad(
                "broken_line",
                f"{file}:{number}",
                f"expected {fields} fields separated by {separator!r}, found {shown(text)}",
            )


def _literal(text: str) -> Any:
    """The value of a Python literal, None where `text` is none. Nothing is executed."""
    try:
        # Backslashes that escape nothing are common in descriptions and would warn line by line.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _cells(text: str) -> list[str] | None:
    """The cells of a line of CSV, None where its quotes do not match."""
    if '"' not in text:
        return text.split(",")
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error:
        return None
