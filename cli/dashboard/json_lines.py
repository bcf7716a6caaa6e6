"""The events of a run as they are in its file, for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from cli.dashboard.view import View
from streamrec_dist.events import Event, events_in, whole_lines
from streamrec_dist.rundir import RunDir
from streamrec_dist.summary import RunSummary


class JsonView(View):
    """Writes every event there is and then those that come, one JSON object a line; it reads the file itself."""

    def __init__(self, run: RunDir):
        self.path, self.offset = run.events_path, 0

    def update(self, state: RunSummary, events: list[Event], lost: bool = False) -> None:
        for data, after in whole_lines(self.path, self.offset):
            self.offset = after
            sys.stdout.buffer.writelines(_objects(data))
            sys.stdout.buffer.flush()


def _objects(data: bytes) -> Iterator[bytes]:
    """Whole lines that are objects, as they are; for one that is none, a warning that says so."""
    for line in data.split(b"\n")[:-1]:
        if _is_object(line):
            yield line + b"\n"
        else:
            yield from (f"{event.to_json()}\n".encode() for event in events_in(line))


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line, parse_constant=_refuse), dict)
    except (ValueError, RecursionError):
        return False


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
