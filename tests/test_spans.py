"""What processes tell of their work comes together on one clock, as a trace that is whole whatever happens."""

from __future__ import annotations

import json
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from streamrec_dist.config import Config
from streamrec_dist.events import EventReader
from streamrec_dist.rundir import RunDir
from streamrec_dist.spans import Clock, Spans, Timeline
from streamrec_dist.stages import run_store
from streamrec_dist.stages.run_store import RunStore
from streamrec_dist.trace_file import add_to_trace
from tests.traces import checked, spans


def told(
    pid: int, *parts: tuple[str, float, float], machine: str = "a", ahead: float = 0.0
) -> dict[str, Any]:
    """What a process tells of its parts, on a machine whose clock is so many seconds `ahead` of ours."""
    moved = [(name, began + ahead, ended + ahead) for name, began, ended in parts]
    return {"machine": machine, "pid": pid, "memory_mib": 1, "parts": moved}


def shown(timeline: Timeline, path: Path) -> list[dict[str, Any]]:
    add_to_trace(path, timeline.take_trace())
    return checked(path)


def test_the_time_between_two_pieces_of_work_is_a_wait_of_its_process() -> None:
    work = Spans()
    work.begin()
    with work.part("generate"):
        pass
    assert [name for name, *_ in work.told()["parts"]] == ["generate"], "nothing is known of before"
    time.sleep(0.02)
    work.begin()
    with work.part("adopt"):
        pass
    with work.part("generate"):
        pass
    (wait, *rest) = work.told()["parts"]
    assert wait[0] == "wait" and 0.02 <= wait[2] - wait[1] < 1
    assert [name for name, *_ in rest] == ["adopt", "generate"]
    assert work.told()["memory_mib"] > 0


def test_seconds_are_those_of_all_processes_together() -> None:
    timeline = Timeline()
    timeline.took("rollout", told(1, ("generate", 10, 12)), asked=9, seen=13)
    timeline.took("rollout", told(2, ("wait", 10, 11), ("generate", 11, 12)), asked=9, seen=13)
    timeline.took("reward", told(3, ("wait", 12, 14), ("score", 14, 14.5)), asked=14, seen=15)
    timeline.took("reward", told(3), asked=14, seen=15)
    assert timeline.take_seconds() == {"generate": 3, "wait_rollout": 1, "wait_reward": 2, "score": 0.5}
    assert timeline.take_seconds() == {} and timeline.take_trace() == []


def test_nobody_waits_while_everything_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    timeline = Timeline()
    monkeypatch.setattr(time, "time", lambda: 160.0)
    timeline.rested(100.0)
    timeline.took("rollout", told(1, ("wait", 95, 161), ("generate", 161, 163)), asked=160, seen=163)
    timeline.took("reward", told(2, ("wait", 110, 120), ("score", 170, 171)), asked=160, seen=171)
    assert timeline.take_seconds() == {"wait_rollout": 6, "generate": 2, "wait_reward": 0, "score": 1}


@pytest.mark.parametrize("ahead", [-100.0, -0.5, 0.0, 0.5, 100.0])
def test_clocks_that_are_off_are_corrected(tmp_path: Path, ahead: float) -> None:
    timeline = Timeline(traced=True)
    for step in range(20):
        begins = 1000.0 + step
        sampled = told(7, ("generate", begins + 0.1, begins + 0.4), machine="far", ahead=ahead)
        timeline.took("rollout", sampled, asked=begins + 0.09, seen=begins + 0.41)
        rewarded = told(7, ("score", begins + 0.5, begins + 0.6))
        timeline.took("reward", rewarded, asked=begins + 0.45, seen=begins + 0.65)
    events = shown(timeline, tmp_path / "trace.json")
    generated, scored = spans(events, "generate"), spans(events, "score")
    assert len(generated) == len(scored) == 20
    for step, (one, other) in enumerate(zip(generated, scored, strict=True)):
        assert one["ts"] == pytest.approx((1000.1 + step) * 1e6, abs=0.011e6 if ahead else 1)
        assert one["ts"] + one["dur"] <= other["ts"], "a score comes after what it scores"
        assert one["dur"] == pytest.approx(0.3e6, abs=1)
        assert one["pid"] != other["pid"], "processes of a number on two machines are two"
    assert timeline.here("far", 2000.0 + ahead) == pytest.approx(2000.0, abs=0.011)
    assert timeline.here("never seen", 5.0) == 5.0


def test_a_clock_is_left_alone_where_nothing_contradicts_it() -> None:
    clock = Clock()
    assert clock.behind == 0
    clock.learn(asked=9, began=10, ended=11, seen=12)
    assert clock.behind == 0
    clock.learn(asked=20, began=10, ended=11, seen=22)
    assert clock.behind == 1, "the work before has told that it is one second at most"


def test_spans_do_not_overlap_when_more_becomes_known_of_a_clock(tmp_path: Path) -> None:
    timeline = Timeline(traced=True)
    # Of a clock that is ten seconds ahead the first piece of work says four at least, the second ten.
    first = told(1, ("generate", 10, 14), ahead=10)
    timeline.took("rollout", first, asked=1, seen=20)
    second = told(1, ("wait", 14, 15), ("generate", 15, 16), ahead=10)
    timeline.took("rollout", second, asked=14.9, seen=16.1)
    events = shown(timeline, tmp_path / "trace.json")
    one, other = spans(events, "generate")
    assert (one["ts"], other["ts"] + other["dur"]) == (16e6, pytest.approx(20e6))


def test_results_that_are_seen_in_another_order_keep_their_places(tmp_path: Path) -> None:
    timeline = Timeline(traced=True)
    timeline.took("rollout", told(1, ("wait", 12, 13), ("generate", 13, 14)), asked=11, seen=15)
    timeline.took("rollout", told(1, ("generate", 11, 12)), asked=10, seen=15)
    timeline.took("rollout", told(1, ("wait", 14, 15), ("generate", 15, 16)), asked=14, seen=17)
    events = shown(timeline, tmp_path / "trace.json")
    assert [(one["ts"], one["dur"]) for one in spans(events, "generate")] == [
        (11e6, 1e6),
        (13e6, 1e6),
        (15e6, 1e6),
    ]


def test_what_is_waited_for_at_a_time_may_overlap(tmp_path: Path) -> None:
    timeline, now = Timeline(traced=True), time.time()
    timeline.did("evaluate", now - 2)
    timeline.did("evaluate", now - 1)
    events = shown(timeline, tmp_path / "trace.json")
    begun = [event["ts"] for event in events if event["ph"] == "b"]
    assert begun == [round((now - 2) * 1e6), round((now - 1) * 1e6)]
    assert timeline.take_seconds()["evaluate"] == pytest.approx(3, abs=0.5)


def test_nothing_is_lost_between_two_threads() -> None:
    timeline, taken, over = Timeline(traced=True), [], threading.Event()

    def take() -> None:
        while not over.is_set():
            taken.extend(timeline.take_trace())

    thread = threading.Thread(target=take)
    thread.start()
    for number in range(5000):
        timeline.took("reward", told(1, ("score", number, number + 0.5)), asked=number, seen=number + 1)
    over.set()
    thread.join()
    taken += timeline.take_trace()
    assert [event["ts"] for event in taken if event["ph"] == "X"] == [round(n * 1e6) for n in range(5000)]


# the file


def some(first: int, count: int = 3) -> list[dict[str, Any]]:
    timeline = Timeline(traced=True)
    for number in range(first, first + count):
        timeline.took("reward", told(1, ("score", number, number + 0.5)), asked=number, seen=number + 1)
    return timeline.take_trace()


def scores(path: Path) -> list[int]:
    return [one["ts"] // 10**6 for one in spans(checked(path), "score")]


def test_a_trace_is_whole_after_every_time_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    assert add_to_trace(path, []) == path.stat().st_size and checked(path) == []
    for first in range(0, 12, 3):
        # Another timeline each time, as after a resume.
        assert add_to_trace(path, some(first)) == path.stat().st_size
        assert scores(path) == list(range(first + 3))
    assert add_to_trace(path, []) == path.stat().st_size
    assert scores(path) == list(range(12))


def test_a_trace_that_was_cut_short_anywhere_loses_the_event_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    add_to_trace(path, some(0))
    whole = path.read_bytes()
    ends = [place + 2 for place in range(len(whole)) if whole.startswith(b",\n", place)]
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        add_to_trace(path, some(10, 1))
        events = json.loads(path.read_text())
        kept = sum(end <= cut for end in ends)
        assert events[:kept] == json.loads(whole)[:kept] and events[kept:] == some(10, 1)


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(RunDir.create(tmp_path, "one", Config()).path)


def warnings(store: RunStore) -> list[str]:
    return [event.message for event in EventReader(store.run.events_path).new() if event.kind == "warning"]


def test_a_full_disk_ends_the_trace_with_a_warning_and_leaves_it_whole(store: RunStore) -> None:
    store.trace(some(0))
    path = store.run.trace_path
    with no_file_beyond(path.stat().st_size + 200):
        store.trace(some(3))
    assert scores(path) == [0, 1, 2]
    store.trace(some(6))
    assert scores(path) == [0, 1, 2], "no more is tried"
    (warning,) = warnings(store)
    assert warning == "nothing more is added to the trace: [Errno 27] File too large"


def test_a_trace_is_bounded(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_store, "TRACE_BYTES", 2**20)
    for first in range(0, 10**5, 1000):
        store.trace(some(first, 1000))
    assert 2**20 < store.run.trace_path.stat().st_size < 1.2 * 2**20
    assert scores(store.run.trace_path)[-1] < 10**4
    assert warnings(store) == ["nothing more is added to the trace: it has 1 MiB"]
