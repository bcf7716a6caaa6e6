"""What a controller tells of a stage while it goes, in a thread of its own: the state of all processes, the trace."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psutil
import ray

from streamrec_dist.events import WORKER_FIELDS, Event
from streamrec_dist.spans import Timeline

if TYPE_CHECKING:
    from cli.conductor import Conductor

#: Seconds between two events, and for each process that one tells of: a large cluster must not fill the disk.
TELL_S, TELL_EACH_S = 5.0, 0.05


class Telling:
    """Emits a `workers` event now and then while the block runs, where something changed, and once at its end."""

    def __init__(self, conductor: Conductor, timeline: Timeline):
        self.conductor, self.timeline = conductor, timeline
        self.here = ray.util.get_node_ip_address()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._tell_on, daemon=True)
        self.finished: dict[tuple[str, int], tuple[float, int]] = {}
        self.told: list[dict[str, Any]] = []

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        self.thread.join()

    def _tell_on(self) -> None:
        over = False
        while not over:
            over = self.over.wait(max(TELL_S, TELL_EACH_S * len(self.told)))
            self._tell()

    def _tell(self) -> None:
        processes = self._processes()
        if processes != self.told:
            self.told = processes
            self.conductor.store.emit(
                Event("workers", self.conductor.stage, metrics={"processes": processes})
            )
        if events := self.timeline.take_trace():
            self.conductor.store.trace(events)

    def _processes(self) -> list[dict[str, Any]]:
        status = self.conductor.status()
        found = []
        for role, state in status["roles"].items():
            for replica in state["replicas"]:
                row = {"role": role, **replica}
                if role == "learners":
                    row["version"] = status.get("version")
                row["rate"] = self._rate(role, replica)
                if replica.get("node") == self.here:
                    row.setdefault("memory_mib", _memory(replica["pid"]))
                found.append({name: row.get(name) for name in WORKER_FIELDS})
        return found

    def _rate(self, role: str, replica: dict[str, Any]) -> float | None:
        """Calls a second since this was last asked for."""
        if "finished" not in replica:
            return None
        key, now = (role, replica["number"]), time.monotonic()
        at, before = self.finished.get(key, (now, replica["finished"]))
        self.finished[key] = (now, replica["finished"])
        # One that replaced another begins to count anew.
        return round(max(0, replica["finished"] - before) / (now - at), 2) if now > at else None


def _memory(pid: int) -> int | None:
    """MiB of a process of this machine, for those whose receipts do not tell."""
    try:
        return round(psutil.Process(pid).memory_info().rss / 2**20)
    except psutil.Error:
        return None
