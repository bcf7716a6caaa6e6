"""The file of a trace (spans.py): a JSON array with an event a line, which is whole whenever it was written."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

OPENED, BETWEEN, CLOSED = b"[\n", b",\n", b"\n]\n"
#: A line is looked for so far from the end of a file that is not whole.
LONGEST_LINE = 2**16


def add_to_trace(path: Path, events: Sequence[Mapping[str, Any]]) -> int:
    """Write events behind those there are; the length of the file. Raises OSError, and leaves it as it was then."""
    body = BETWEEN.join(json.dumps(event).encode() for event in events)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        end = _whole(descriptor)
        added = (BETWEEN if body and end > len(OPENED) else b"") + body + CLOSED
        try:
            _write(descriptor, added, end)
        except OSError:
            # There is room for what was there before.
            os.ftruncate(descriptor, end)
            _write(descriptor, CLOSED, end)
            raise
        return end + len(added)
    finally:
        os.close(descriptor)


def _whole(descriptor: int) -> int:
    """Where the last event of the file ends. One that was cut short in a line ends with the line before."""
    size = os.fstat(descriptor).st_size
    start = max(0, size - LONGEST_LINE)
    tail = os.pread(descriptor, size - start, start)
    if tail.endswith(CLOSED):
        return size - len(CLOSED)
    # No line break stands within an event.
    last = tail.rfind(BETWEEN)
    end = start + last if last >= 0 else len(OPENED)
    os.ftruncate(descriptor, end)
    _write(descriptor, OPENED, 0)
    return end


def _write(descriptor: int, data: bytes, at: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, at)
        data, at = data[written:], at + written
