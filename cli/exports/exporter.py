"""What exporters have in common: they take the events of a run, the oldest first, in bounded memory."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from cli.output import note
from streamrec_dist.errors import summary
from streamrec_dist.events import Event, EventReader
from streamrec_dist.rundir import RunDir

#: How often a going run is looked at.
FOLLOW_S = 1.0
#: Of a metric that is a list, so many values are taken.
VALUES = 64


class Exporter(ABC):
    """Brings the events of a run to another program; first those of stages that it has from other runs."""

    #: What is made or served, and where.
    about: str

    def __init__(self, run: RunDir):
        self.run = run
        self.readers = [EventReader(run.inherited_path), EventReader(run.events_path)]

    def read(self) -> None:
        """Take what was added to the events since the last call."""
        for reader in self.readers:
            for events in reader.parts():
                self.take(events)

    @abstractmethod
    def take(self, events: Sequence[Event]) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """The run has ended, or is followed no longer."""


class Exporting:
    """Exports a run while the block shows it, in a thread of its own, and once more in the end.

    An exporter that fails says so when the block has ended. Neither the run nor the view is worse for it.
    """

    def __init__(self, exporters: Sequence[Exporter]):
        self.exporters = list(exporters)
        self.problems: list[str] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._export_on, daemon=True)

    def __enter__(self) -> None:
        if self.exporters:
            self.thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.thread.ident:
            return
        self.over.set()
        self.thread.join(FOLLOW_S)
        if self.thread.is_alive():
            note("finishing what is exported (Ctrl-C leaves it as it is) ...")
            self.thread.join()
        for problem in self.problems:
            note(f"warning: {problem}")

    def _export_on(self) -> None:
        over = False
        while not over:
            over = self.over.is_set()
            for exporter in list(self.exporters):
                self._tried(exporter, exporter.read)
            self.over.wait(FOLLOW_S)
        for exporter in list(self.exporters):
            self._tried(exporter, exporter.close)

    def _tried(self, exporter: Exporter, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            # Whatever another program or a full disk may raise.
            self.exporters.remove(exporter)
            self.problems.append(f"given up: {exporter.about} ({summary(error)})")


def numbers(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The metrics that are numbers; of lists `name/0`, `name/1` and so on."""
    for name, value in metrics.items():
        values = (
            {f"{name}/{place}": one for place, one in enumerate(value[:VALUES])} if _is_list(value) else {}
        )
        for key, one in (values or {name: value}).items():
            if isinstance(one, int | float) and not isinstance(one, bool):
                yield key, float(one)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def series(event: Event) -> tuple[str, Iterator[tuple[str, float]]] | None:
    """What an event adds to curves: of which series (a stage, or a fold of stage retrieve), and the values by name.

    None for one that has no step. Folds count their steps anew.
    """
    prefix = {"step": "", "eval": f"{event.split or 'valid'}/", "round": "round/"}.get(event.kind)
    if prefix is None or not event.stage:
        return None
    fold = event.metrics.get("fold")
    name = f"{event.stage}-fold-{fold}" if isinstance(fold, int) else event.stage
    return name, ((prefix + key, value) for key, value in numbers(event.metrics))
