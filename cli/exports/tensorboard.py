"""A run as TensorBoard event files: a folder for each stage, which is what TensorBoard calls a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event as Record
from tensorboardX.proto.event_pb2 import SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from cli.exports.exporter import Exporter, series
from streamrec_dist.events import Event
from streamrec_dist.rundir import NAME, RunDir
from streamrec_dist.summary import NAMES

#: How the names of our files end: they are written anew each time, others beside them are left alone.
SUFFIX = ".streamrec"


class TensorBoard(Exporter):
    """Writes all curves of the run to a folder, runs/NAME/tensorboard where none is given. Raises OSError.

    Steps that are made again take the place of those before, as TensorBoard itself does it: by a session that starts
    at a step. The first starts at 0, so that one that shows an earlier export forgets it.
    """

    def __init__(self, run: RunDir, folder: Path | None = None):
        super().__init__(run)
        self.folder = folder or run.path / "tensorboard"
        self.about = f"TensorBoard files in {self.folder} (tensorboard --logdir {self.folder})"
        self.writers: dict[str, EventsWriter] = {}
        self.steps: dict[str, int] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob(f"*/events.out.tfevents.*{SUFFIX}"):
            path.unlink()

    def read(self) -> None:
        super().read()
        for writer in self.writers.values():
            writer.flush()

    def take(self, events: Sequence[Event]) -> None:
        for event in events:
            if found := series(event):
                self._take(event, *found)

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()

    def _take(self, event: Event, name: str, values: Iterator[tuple[str, float]]) -> None:
        writer = self._writer(name)
        if writer is None:
            return
        if event.kind == "step":
            if event.step <= self.steps.get(name, -1):
                _start(writer, event)
            self.steps[name] = event.step
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values])
        writer.write_event(Record(wall_time=event.t, step=event.step, summary=summary))

    def _writer(self, name: str) -> EventsWriter | None:
        """That of a series; None for one that can be no folder, and where there are too many."""
        if name not in self.writers:
            if not NAME.fullmatch(name) or len(self.writers) >= NAMES:
                return None
            (self.folder / name).mkdir(exist_ok=True)
            self.writers[name] = EventsWriter(str(self.folder / name / "events"), SUFFIX)
            _start(self.writers[name], Event("step"))
        return self.writers[name]


def _start(writer: EventsWriter, event: Event) -> None:
    """Have what there is from the step of an event on forgotten."""
    started = SessionLog(status=SessionLog.START)
    writer.write_event(Record(wall_time=event.t, step=event.step, session_log=started))
