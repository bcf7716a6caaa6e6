"""What processes do when: parts of their work on the clock of their machine, and all of them on one."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

#: Shorter gaps between two pieces of work of a process are not worth a part of a trace.
GAP_S = 1e-4


class Spans:
    """The parts of one piece of work in this process, in seconds since the epoch.

    On a GPU a part ends when its work is given to the device; the last, which waits for results, when that is done.
    """

    def __init__(self) -> None:
        self.parts: list[tuple[str, float, float]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.time()
        yield
        self.parts.append((name, began, time.time()))

    def told(self) -> dict[str, Any]:
        """The parts, and where and with how much memory they were done, as they travel in a receipt."""
        resident = psutil.Process().memory_info().rss / 2**20
        return {
            "machine": socket.gethostname(),
            "pid": os.getpid(),
            "memory_mib": round(resident),
            "parts": self.parts,
        }


@dataclass
class Clock:
    """By how much a machine's clock is behind ours: no work can begin before it was asked for, or end after its
    result was here."""

    least: float = float("-inf")
    most: float = float("inf")

    def learn(self, asked: float, began: float, ended: float, seen: float) -> None:
        self.least, self.most = max(self.least, asked - began), min(self.most, seen - ended)

    @property
    def behind(self) -> float:
        """Seconds; 0 where nothing contradicts it."""
        return min(max(0.0, self.least), self.most)


@dataclass
class Timeline:
    """What all roles did since it was last asked, by part, and, `traced`, all of it as events of a trace.

    A trace is in the JSON array format of Chrome's trace viewer, which Perfetto reads: a process there is a machine
    here, a thread there a process here.
    """

    traced: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    trace: list[dict[str, Any]] = field(default_factory=list)
    clocks: dict[str, Clock] = field(default_factory=dict)
    ended: dict[tuple[str, int], float] = field(default_factory=dict)  # when a process was last seen to work
    named: set[tuple[str, int]] = field(default_factory=set)
    machines: dict[str, int] = field(default_factory=dict)

    def took(self, role: str, told: Mapping[str, Any], asked: float, seen: float) -> None:
        """Take what a process of a role told (`Spans.told`) of work that was asked for, and whose result was seen."""
        parts = told["parts"]
        for name, began, ended in parts:
            self.seconds[name] = self.seconds.get(name, 0.0) + ended - began
        if not parts:
            return
        machine, process = told["machine"], (told["machine"], told["pid"])
        before = self.ended.get(process)
        idle = max(0.0, parts[0][1] - before) if before is not None else 0.0
        self.ended[process] = parts[-1][2]
        self.seconds[f"wait_{role}"] = self.seconds.get(f"wait_{role}", 0.0) + idle
        if self.traced:
            clock = self.clocks.setdefault(machine, Clock())
            clock.learn(asked, parts[0][1], parts[-1][2], seen)
            self._name(process, role)
            if idle > GAP_S and before is not None:
                self._add("wait", role, process, before + clock.behind, parts[0][1] + clock.behind)
            for name, began, ended in parts:
                self._add(name, role, process, began + clock.behind, ended + clock.behind)

    def did(self, name: str, began: float) -> None:
        """Take what was waited for here, from `began` until now."""
        ended = time.time()
        self.seconds[name] = self.seconds.get(name, 0.0) + ended - began
        if self.traced:
            here = (socket.gethostname(), os.getpid())
            self._name(here, "controller")
            self._add(name, "controller", here, began, ended)

    def take_seconds(self) -> dict[str, float]:
        """Seconds by part, of all processes together, since the last call."""
        taken, self.seconds = self.seconds, {}
        return taken

    def take_trace(self) -> list[dict[str, Any]]:
        """Events of the trace since the last call."""
        taken, self.trace = self.trace, []
        return taken

    def _name(self, process: tuple[str, int], role: str) -> None:
        machine, pid = process
        if process not in self.named:
            self.named.add(process)
            place = {"ph": "M", "pid": self._machine(machine), "tid": pid}
            self.trace.append({**place, "name": "process_name", "args": {"name": machine}})
            self.trace.append({**place, "name": "thread_name", "args": {"name": f"{role} {pid}"}})

    def _add(self, name: str, role: str, process: tuple[str, int], began: float, ended: float) -> None:
        machine, pid = process
        place = {"pid": self._machine(machine), "tid": pid}
        times = {"ts": round(began * 1e6), "dur": round((ended - began) * 1e6)}
        self.trace.append({"name": name, "cat": role, "ph": "X", **times, **place})

    def _machine(self, name: str) -> int:
        return self.machines.setdefault(name, len(self.machines))
