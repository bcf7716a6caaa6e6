"""Where the summary of a run is kept, and how it comes to be of the events alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgpack
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from streamrec_dist.errors import DataError
from streamrec_dist.events import SCHEMA, Count, EventReader, events_in, whole_lines
from streamrec_dist.rundir import RunDir, write_atomically
from streamrec_dist.summary import RunSummary

#: Events beyond so many bytes that no summary covers are read in part: of the steps, every so manieth.
WHOLE_BYTES = 2**26
#: The last events are read whole whatever their number: a rate is that of the last steps.
LAST_BYTES = 2**18
#: No summary of a run has more.
KEPT_BYTES = 2**27
#: How a line of a step begins (`Event.to_json`).
STEP = f'{{"schema": {SCHEMA}, "kind": "step"'.encode()


@dataclass(frozen=True)
class Kept:
    """The file: a summary (`RunSummary.packed`), and how many bytes of the events it covers."""

    covered: Count
    summary: bytes


_FILE = TypeAdapter(Kept)


def keep_summary(run: RunDir, summary: RunSummary, covered: int) -> None:
    """Write the summary of the first `covered` bytes of a run's events. Raises OSError."""
    _keep(run.summary_path, summary, covered)


def keep_inherited(run: RunDir) -> None:
    """Write the summary of what was done in the stages that a new run has from another. Raises OSError."""
    summary = RunSummary(run.name)
    _keep(run.inherited_summary_path, summary, take_events(summary, run.inherited_path, 0))


def _keep(path: Path, summary: RunSummary, covered: int) -> None:
    write_atomically(path, msgpack.packb({"covered": covered, "summary": summary.packed()}))


def kept_summary(run: RunDir) -> tuple[RunSummary, int] | None:
    """The summary that is kept, and the bytes that it covers; None where there is none that can be used."""
    return _kept(run.name, run.summary_path, run.events_path)


def _kept(name: str, path: Path, events: Path) -> tuple[RunSummary, int] | None:
    try:
        if path.stat().st_size > KEPT_BYTES:
            return None
        kept = _FILE.validate_python(msgpack.unpackb(path.read_bytes()))
        summary = RunSummary.unpacked(kept.summary)
        # A run may have been copied, or given another name.
        summary.run = name
        return (summary, kept.covered) if _ends_line(events, kept.covered) else None
    except (ValidationError, DataError, msgpack.UnpackException, ValueError, OSError):
        # There is none, or it is none: it is made of the events again.
        return None


def _ends_line(path: Path, covered: int) -> bool:
    """Whether a line ends before this byte: else a summary is not of this file, or of more than is left of it."""
    with path.open("rb") as file:
        file.seek(max(covered - 1, 0))
        return file.read(1) == b"\n" if covered else True


def summarised(run: RunDir) -> tuple[RunSummary, EventReader]:
    """What a run did so far, and a reader of what comes after it, however long it is."""
    summary, covered = kept_summary(run) or (RunSummary(run.name), 0)
    reader = EventReader(run.events_path, covered)
    reader.offset = take_events(summary, run.events_path, covered)
    return summary, reader


def inherited(run: RunDir) -> RunSummary:
    """What was done in the stages that a run has from another."""
    kept = _kept(run.name, run.inherited_summary_path, run.inherited_path)
    summary, covered = kept or (RunSummary(run.name), 0)
    take_events(summary, run.inherited_path, covered)
    return summary


def whole_summary(run: RunDir) -> tuple[RunSummary, list[str]]:
    """What a run did so far, with the stages that it has from another run, and the names of these."""
    summary, taken = summarised(run)[0], []
    for name, stage in inherited(run).stages.items():
        own = summary.stages.get(name)
        if stage.started and not (own and (own.courses or own.evaluations)):
            summary.stages[name] = stage
            taken.append(name)
    return summary, taken


def take_events(summary: RunSummary, path: Path, offset: int) -> int:
    """Add the events of a file from a byte on, in bounded memory; returns the byte after the last whole one.

    Of more than WHOLE_BYTES of them all are taken but steps, of which every so manieth is.
    """
    if not path.exists():
        return offset
    size = path.stat().st_size
    every = -(-(size - offset) // WHOLE_BYTES)
    if every > 1:
        for data, after in whole_lines(path, offset, size - LAST_BYTES):
            summary.apply_all(events_in(_some(data, every)))
            offset = after
    for data, after in whole_lines(path, offset):
        summary.apply_all(events_in(data))
        offset = after
    return offset


def _some(data: bytes, every: int) -> bytes:
    """Lines without most of those of steps."""
    return b"\n".join(_chosen(data.split(b"\n"), every))


def _chosen(lines: list[bytes], every: int) -> Iterator[bytes]:
    for number, line in enumerate(lines):
        if not line.startswith(STEP) or number % every == 0:
            yield line
