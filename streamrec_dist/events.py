"""Events of a run: what happened, as one JSON object a line in `events.jsonl`.

Every event has `schema`, `t` (seconds since the epoch) and `kind`, those of a stage `stage`; the rest depends on
the kind:

| kind     | fields                                                                     |
|----------|----------------------------------------------------------------------------|
| run      | state: started, paused, resumed, done, failed, stopped; message;             |
|          | metrics (started): stages, environment: versions and machines, name -> text |
| stage    | state: started, done, skipped; total (steps), metrics                        |
| step     | step, total, metrics: name -> number                                        |
| annotate | step (rows done), total, metrics (stage 2)                                 |
| round    | step (number of the round), metrics: leak, distance (stage 2)              |
| eval     | step, split, metrics                                                        |
| warning  | message                                                                     |
| workers  | metrics: processes, a list of what `WORKER_FIELDS` names of each             |

`SCHEMA` grows by one when what a field means changes; fields may be added without. docs/events.md says what the
metrics are.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter

SCHEMA = 1
#: What is read of the end of a file for its last event, at first.
TAIL_BYTES = 2**16
#: What is read of a file at a time.
READ_BYTES = 2**23
ENDED = ("done", "failed", "stopped")
#: Of a process: its number in its role; starting, ready or leaving; calls a second; MiB of memory; how often it was
#: replaced.
WORKER_FIELDS = ("role", "number", "node", "pid", "state", "version", "rate", "memory_mib", "restarts")
#: Beyond these are no counts and no times: a reader that divides by them or shows them as a date would fail.
LARGEST, LATEST = 2**63, 1e11


def _plain(value: Any) -> Any:
    """JSON has no NaN or numpy numbers."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str | bool | type(None)):
        return value
    if isinstance(value, int):
        return value if abs(value) < LARGEST else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    number = float(value)
    return number if math.isfinite(number) else None


Count = Annotated[int, Field(ge=0, lt=LARGEST)]
Metrics = Annotated[dict[str, Any], AfterValidator(_plain)]


@dataclass(frozen=True)
class Event:
    """One line of events.jsonl."""

    kind: str
    stage: str = ""
    step: Count = 0
    total: Count = 0
    state: str = ""
    message: str = ""
    split: str = ""
    metrics: Metrics = field(default_factory=dict)
    t: Annotated[float, Field(ge=0, lt=LATEST)] = field(default_factory=time.time)

    def plain(self) -> Event:
        """The event as it is read back from its line."""
        return replace(self, metrics=_plain(self.metrics), t=round(self.t, 3))

    def to_json(self) -> str:
        body = {key: value for key, value in vars(self.plain()).items() if key == "t" or value not in ("", 0)}
        return json.dumps({"schema": SCHEMA, **body}, ensure_ascii=False)

    @staticmethod
    def from_json(line: str) -> Event:
        """Keys that no event has are left out. Raises ValueError for what is no event."""
        return _LINE.validate_json(line, strict=True)


_LINE = TypeAdapter(Event)


class EventLog:
    """Appends events to a file, each written whole so that readers may follow along. Raises OSError."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def append(self, events: list[Event]) -> int:
        """Write events; the length of the file after them."""
        data = "".join(event.to_json() + "\n" for event in events).encode()
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # What was being written when the disk was full, or the process killed, must not spoil the next line.
            end = os.fstat(descriptor).st_size
            if end and os.pread(descriptor, 1, end - 1) != b"\n":
                data = b"\n" + data
            while data:
                data = data[os.write(descriptor, data) :]
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)


class EventReader:
    """Follows an events file from a byte on; `new()` gives what has been added since the last call."""

    def __init__(self, path: Path, offset: int = 0):
        self.path, self.offset = path, offset

    def new(self) -> list[Event]:
        return [event for part in self.parts() for event in part]

    def parts(self, end: int | None = None) -> Iterator[list[Event]]:
        """The same, READ_BYTES of them at a time, and none from byte `end` on."""
        for data, after in whole_lines(self.path, self.offset, end):
            self.offset = after
            yield list(events_in(data))


def whole_lines(path: Path, offset: int, end: int | None = None) -> Iterator[tuple[bytes, int]]:
    """The whole lines of a file from a byte on, some READ_BYTES at a time, and the byte after them.

    The last line may still be being written: it is left out. So is what comes from byte `end` on. Of a line of many
    READ_BYTES a part is missing, so that memory is bounded whatever the file holds.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        rest = b""
        while True:
            left = READ_BYTES if end is None else end - file.tell()
            data = file.read(max(0, min(READ_BYTES, left)))
            if not data:
                return
            whole, broken, after = data.rpartition(b"\n")
            if broken:
                yield rest + whole + broken, file.tell() - len(after)
                rest = after
            elif len(rest) < READ_BYTES:
                rest += data


def last_event(path: Path) -> Event | None:
    """The newest event of a file, however long it is; None where there is none."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        size = TAIL_BYTES
        while True:
            file.seek(max(end - size, 0))
            data = file.read(min(size, end))
            # What follows the last line break may still be being written.
            lines = data.split(b"\n")[:-1]
            # The first line may be cut off, unless the file begins with it.
            if len(lines) > 1 or size >= end:
                return next(events_in(lines[-1]), None) if lines else None
            size *= 4


def events_in(data: bytes) -> Iterator[Event]:
    """The events of whole lines; a warning for one that is none, of the time of the event before."""
    at = 0.0
    for line in data.decode("utf-8", errors="replace").split("\n"):
        if line.strip():
            try:
                event = Event.from_json(line)
            except ValueError:
                event = Event("warning", message=f"unreadable line in the events file: {line[:80]!r}", t=at)
            yield event
            at = event.t
