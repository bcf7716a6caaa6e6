"""What processes do when: parts of their work on the clock of their machine, and all of them on one."""

from __future__ import annotations

import itertools
import os
import socket
import time
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

WAIT = "wait"
#: Rests of a run that are remembered: a process tells of a wait with its next piece of work.
RESTS = 100
#: Shorter waits between two pieces of work of a process are not worth a part of a trace.
GAP_S = 1e-4


class Spans:
    """The parts of the work of this process, one piece of it after the other, in seconds since the epoch.

    On a GPU a part ends when its work is given to the device; the last, which waits for results, when that is done.
    """

    def __init__(self) -> None:
        self.parts: list[tuple[str, float, float]] = []
        self.process, self.machine = psutil.Process(), socket.gethostname()

    def begin(self) -> None:
        """Begin a piece of work. Since the one before ended, this process has waited."""
        ended = self.parts[-1][2] if self.parts else None
        self.parts = [] if ended is None else [(WAIT, ended, time.time())]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.time()
        yield
        self.parts.append((name, began, time.time()))

    def told(self) -> dict[str, Any]:
        """The parts, and where and with how much memory they were done, as they travel in a receipt."""
        return {
            "machine": self.machine,
            "pid": self.process.pid,
            "memory_mib": round(self.process.memory_info().rss / 2**20),
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
    here, a thread there a process here. One thread adds to it; another may take the trace.
    """

    traced: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    trace: deque[dict[str, Any]] = field(default_factory=deque)
    clocks: dict[str, Clock] = field(default_factory=dict)
    #: When a process was last seen to work, by its own clock and by ours.
    ended: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)
    named: set[tuple[str, int]] = field(default_factory=set)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    #: When the user had everything rest, by our clock.
    rests: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=RESTS))

    def took(self, role: str, told: Mapping[str, Any], asked: float, seen: float) -> None:
        """Take what a process of a role told (`Spans.told`) of work that was asked for, and whose result was seen."""
        parts = told["parts"]
        work = [part for part in parts if part[0] != WAIT]
        if not work:
            return
        self.clocks.setdefault(told["machine"], Clock()).learn(asked, work[0][1], work[-1][2], seen)
        for name, began, ended in parts:
            seconds = max(ended - began, 0.0)
            if name == WAIT:
                name = f"{WAIT}_{role}"
                seconds -= self._rested(*(self.here(told["machine"], moment) for moment in (began, ended)))
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        if self.traced:
            self._trace(role, (told["machine"], told["pid"]), parts)

    def here(self, machine: str, moment: float) -> float:
        """A moment by the clock of a machine, by ours."""
        return moment + self.clocks[machine].behind if machine in self.clocks else moment

    def did(self, name: str, began: float) -> None:
        """Take what was waited for here, from `began` until now."""
        ended = time.time()
        self.seconds[name] = self.seconds.get(name, 0.0) + ended - began
        if self.traced:
            here = (socket.gethostname(), os.getpid())
            self._name(here, "controller")
            # Several may be waited for at a time, and spans of a thread are calls within one another.
            span = {"name": name, "cat": "controller", "id": next(self.numbers), **_place(here)}
            self.trace.append({"ph": "b", "ts": _microseconds(began), **span})
            self.trace.append({"ph": "e", "ts": _microseconds(ended), **span})

    def rested(self, began: float) -> None:
        """Everything has rested from `began` until now: nobody has waited meanwhile."""
        self.rests.append((began, time.time()))

    def _rested(self, began: float, ended: float) -> float:
        """Seconds of these during which everything rested."""
        return sum(max(0.0, min(ended, last) - max(began, first)) for first, last in self.rests)

    def take_seconds(self) -> dict[str, float]:
        """Seconds by part, of all processes together, since the last call."""
        taken, self.seconds = self.seconds, {}
        return taken

    def take_trace(self) -> list[dict[str, Any]]:
        """Events of the trace since the last call."""
        return [self.trace.popleft() for _ in range(len(self.trace))]

    def _trace(self, role: str, process: tuple[str, int], parts: list[tuple[str, float, float]]) -> None:
        self._name(process, role)
        before, floor = self.ended.get(process, (float("-inf"), float("-inf")))
        # What is known of a clock grows: where it is now taken to be less behind, spans must not overlap for that.
        floor = floor if parts[0][1] >= before else float("-inf")
        for name, began, ended in parts:
            first, last = (max(self.here(process[0], moment), floor) for moment in (began, ended))
            if name != WAIT or last - first > GAP_S:
                times = {"ts": _microseconds(first), "dur": _microseconds(last) - _microseconds(first)}
                self.trace.append({"ph": "X", "name": name, "cat": role, **times, **_place(process)})
            floor = last
        if parts[-1][2] > before:
            self.ended[process] = parts[-1][2], floor

    def _name(self, process: tuple[str, int], role: str) -> None:
        if process not in self.named:
            self.named.add(process)
            names = {"process_name": process[0], "thread_name": f"{role} {process[1]}"}
            for kind, name in names.items():
                self.trace.append({"ph": "M", "name": kind, "args": {"name": name}, **_place(process)})


def _place(process: tuple[str, int]) -> dict[str, int]:
    """Machines have the same number whoever writes to a trace, and in which order."""
    machine, pid = process
    return {"pid": zlib.crc32(machine.encode()) >> 1, "tid": pid}


def _microseconds(moment: float) -> int:
    return round(moment * 1e6)
