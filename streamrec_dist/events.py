"""Events of a run: what happened, as one JSON object a line in `events.jsonl`.

Every event has `schema`, `t` (seconds since the epoch), `kind` and `stage`; the rest depends on the kind:

| kind     | fields                                                                     |
|----------|----------------------------------------------------------------------------|
| run      | state: started, done, failed, stopped; message                              |
| stage    | state: started, done, skipped; total (steps), metrics                        |
| step     | step, total, metrics: name -> number                                        |
| round    | step (number of the round), metrics: leak, distance (stage 2)              |
| eval     | step, split, metrics                                                        |
| warning  | message                                                                     |
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = 1
ENDED = ("done", "failed", "stopped")


@dataclass(frozen=True)
class Event:
    """One line of events.jsonl."""

    kind: str
    stage: str = ""
    step: int = 0
    total: int = 0
    state: str = ""
    message: str = ""
    split: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    t: float = field(default_factory=time.time)

    def to_json(self) -> str:
        body = {key: value for key, value in vars(self).items() if value not in ("", 0, {})}
        body["metrics"] = {key: _plain(value) for key, value in self.metrics.items()}
        return json.dumps({"schema": SCHEMA, **body, "t": round(self.t, 3)}, ensure_ascii=False)

    @staticmethod
    def from_json(line: str) -> Event:
        body = json.loads(line)
        body.pop("schema", None)
        known = Event.__dataclass_fields__
        return Event(**{key: value for key, value in body.items() if key in known})


class EventLog:
    """Appends events to a file, each written whole so that readers may follow along."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def append(self, events: list[Event]) -> None:
        data = "".join(event.to_json() + "\n" for event in events).encode()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)


class EventReader:
    """Follows an events file from the start; `new()` gives what has been added since the last call."""

    def __init__(self, path: Path):
        self.path = path
        self._offset = 0

    def new(self) -> list[Event]:
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        # The last line may still be being written: leave it for the next call.
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return list(_parse(whole))


def _parse(data: bytes) -> Iterator[Event]:
    for line in data.decode("utf-8", errors="replace").split("\n"):
        if line.strip():
            try:
                yield Event.from_json(line)
            except (json.JSONDecodeError, TypeError):
                yield Event(kind="warning", message=f"unreadable line in the events file: {line[:80]!r}")


def _plain(value: Any) -> Any:
    """JSON has no NaN or numpy numbers."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str | bool | int | type(None)):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    number = float(value)
    return number if math.isfinite(number) else None
