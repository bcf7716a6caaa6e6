"""The kept summary of a run: with the events after it, it is what all events come down to, and never worse."""

from __future__ import annotations

import math
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec_dist import events as events_module
from streamrec_dist import summary_file
from streamrec_dist.config import Config
from streamrec_dist.course import LARGEST
from streamrec_dist.events import Event, EventLog, EventReader, whole_lines
from streamrec_dist.rundir import RunDir
from streamrec_dist.stages import run_store
from streamrec_dist.stages.run_store import RunStore
from streamrec_dist.summary import RunSummary
from streamrec_dist.summary_file import keep_summary, kept_summary, summarised
from tests.drawn import scene_of, screen
from tests.hostile import FUZZ, ODD, distorted


def steps(first: int, last: int, stage: str = "rl") -> list[Event]:
    return [
        Event(
            "step",
            stage,
            step,
            9999,
            metrics={"reward/total": step / 7, "staleness_counts": [3, 1]},
            t=1000.0 + step / 4,
        )
        for step in range(first, last)
    ]


def story() -> list[Event]:
    processes = [{"role": "rollout", "number": 0, "pid": 7, "state": "ready"}]
    return [
        Event("run", state="started", metrics={"stages": ["sft", "rl"]}, t=900.0),
        Event("stage", "sft", state="skipped", t=901.0),
        Event("stage", "rl", state="started", t=902.0),
        *steps(1, 400),
        Event("eval", "rl", 399, split="valid", metrics={"ndcg@10": 0.25}, t=1100.0),
        Event("workers", "rl", metrics={"processes": processes}, t=1100.0),
        Event("warning", "rl", message="an actor died", t=1100.0),
        *steps(400, 600),
    ]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, "one", Config())


def whole(run: RunDir) -> RunSummary:
    return RunSummary(run.name).apply_all(EventReader(run.events_path).new())


def test_a_kept_summary_and_what_comes_after_it_are_all_events(run: RunDir) -> None:
    log = EventLog(run.events_path)
    covered = log.append(story()[:300])
    keep_summary(run, whole(run), covered)
    log.append(story()[300:])
    summary, reader = summarised(run)
    assert summary == whole(run) and reader.new() == []
    log.append(steps(600, 602))
    assert [event.step for event in reader.new()] == [600, 601]
    # It is the kept one that is taken, not the file read again.
    changed = RunSummary.unpacked(whole(run).packed())
    changed.warned = 77
    keep_summary(run, changed, run.events_path.stat().st_size)
    assert summarised(run)[0].warned == 77


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1",
        b"not msgpack",
        msgpack.packb({"covered": 0}),
        msgpack.packb({"covered": -1, "summary": RunSummary("one").packed()}),
        msgpack.packb({"covered": 2**62, "summary": RunSummary("one").packed()}),
        msgpack.packb({"covered": 0, "summary": b"\xdf\xff\xff\xff\xff"}),
        msgpack.packb({"covered": 0, "summary": msgpack.packb({"run": ["a"] * 9})}),
    ],
)
def test_a_summary_that_cannot_be_used_is_made_again(run: RunDir, content: bytes) -> None:
    EventLog(run.events_path).append(story())
    run.summary_path.write_bytes(content)
    assert kept_summary(run) is None
    assert summarised(run)[0] == whole(run)


def test_a_summary_of_another_file_is_not_taken(run: RunDir) -> None:
    covered = EventLog(run.events_path).append(story())
    keep_summary(run, whole(run), covered)
    assert kept_summary(run) is not None
    lines = run.events_path.read_bytes().splitlines(keepends=True)
    # Shorter; and of other lines, so that what is covered ends within one.
    for content in (b"".join(lines[:-1]), b"".join(lines[5:]) + b"x" * covered + b"\n"):
        run.events_path.write_bytes(content)
        assert kept_summary(run) is None
        assert summarised(run)[0] == whole(run)
    run.events_path.unlink()
    assert summarised(run)[0] == RunSummary("one")


def test_a_run_that_was_renamed_is_called_as_it_is_now(run: RunDir) -> None:
    RunStore(run.path).emit(*story(), Event("run", state="done", t=1200.0))
    assert kept_summary(run) is not None
    copy = RunDir(run.path.rename(run.path.with_name("other")))
    assert summarised(copy)[0].run == "other"


def test_a_summary_that_no_run_has_is_not_read(run: RunDir) -> None:
    EventLog(run.events_path).append(story())
    with run.summary_path.open("wb") as file:
        file.truncate(summary_file.KEPT_BYTES + 1)
    assert kept_summary(run) is None


@FUZZ
@given(data=st.data())
def test_a_hostile_summary_is_refused_or_can_be_shown(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    run = RunDir.create(tmp_path_factory.mktemp("hostile"), "one", Config())
    covered = EventLog(run.events_path).append(story()[-20:])
    # Larger numbers no msgpack has.
    odd = [one for one in ODD if not isinstance(one, int) or abs(one) < 2**63]
    tree = msgpack.unpackb(RunSummary("one").apply_all(story()[-20:]).packed())
    packed = msgpack.packb(data.draw(distorted(tree, odd)))
    run.summary_path.write_bytes(msgpack.packb({"covered": covered, "summary": packed}))
    summary, _ = summarised(run)
    screen(scene_of(summary, 1e9))
    summary.apply_all(story())
    assert RunSummary.unpacked(summary.packed()) == summary


def test_of_many_events_steps_are_left_out_but_not_the_last(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary_file, "WHOLE_BYTES", 2**14)
    monkeypatch.setattr(summary_file, "LAST_BYTES", 2**13)
    monkeypatch.setattr(events_module, "READ_BYTES", 2**14)
    EventLog(run.events_path).append(story())
    size = run.events_path.stat().st_size
    assert size > 4 * 2**14
    summary, reader = summarised(run)
    complete = whole(run)
    assert reader.offset == size
    taken, every = summary.stages["rl"], -(-size // 2**14)
    values = sum(bucket.count for bucket in taken.courses["reward/total"].buckets)
    assert 599 / every < values < 599 / every + 2**13 / 100
    assert (taken.step, taken.rate(), taken.total) == (599, 4.0, 9999)
    for name in ("warned", "processes", "lives", "planned", "stage", "last"):
        assert getattr(summary, name) == getattr(complete, name), name
    assert list(taken.evaluations) == list(complete.stages["rl"].evaluations)
    course, all_of_it = taken.courses["reward/total"], complete.stages["rl"].courses["reward/total"]
    assert np.interp(300, course.steps(), course.means()) == pytest.approx(300 / 7, rel=0.02)
    assert course.means()[-1] == all_of_it.means()[-1]


def test_steps_that_stand_there_twice_or_are_made_again_count_once(run: RunDir) -> None:
    log = EventLog(run.events_path)
    log.append([*steps(1, 100), *steps(90, 100), Event("run", state="started", t=1030.0), *steps(50, 80)])
    summary, _ = summarised(run)
    course = summary.stages["rl"].courses["reward/total"]
    assert course.steps().tolist() == list(range(1, 80))
    assert course.means() == pytest.approx(np.arange(1, 80) / 7)


def test_a_line_that_is_being_written_counts_when_it_is_whole(run: RunDir) -> None:
    log = EventLog(run.events_path)
    log.append(steps(1, 10))
    line = (steps(10, 11)[0].to_json() + "\n").encode()
    with run.events_path.open("ab") as file:
        file.write(line[:40])
    summary, reader = summarised(run)
    assert summary.stages["rl"].step == 9 and reader.new() == []
    with run.events_path.open("ab") as file:
        file.write(line[40:])
    assert [event.step for event in reader.new()] == [10]


@pytest.mark.parametrize("length", [10, 100, 250, 1000, 5000])
def test_what_is_read_at_a_time_is_bounded_whatever_a_line_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr(events_module, "READ_BYTES", 100)
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"before\n" + b"x" * length + b"\nafter\n")
    parts = list(whole_lines(path, 0))
    assert max(len(data) for data, _ in parts) <= 300
    lines = b"".join(data for data, _ in parts).split(b"\n")
    assert (lines[0], len(lines), lines[2:]) == (b"before", 4, [b"after", b""])
    assert lines[1] == b"x" * length if length <= 100 else len(lines[1]) <= 300
    assert parts[-1][1] == path.stat().st_size
    for _, after in parts:
        assert path.read_bytes()[after - 1 : after] == b"\n"
        assert b"".join(data for data, _ in whole_lines(path, after)).endswith(
            b"after\n" if after < 8 else b""
        )


# what the store keeps


def test_the_store_keeps_the_summary_of_what_it_wrote(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RunStore(run.path)
    store.emit(*story()[:300])
    assert not run.summary_path.exists(), "not after every event"
    odd = {"single": np.float32(0.5), "nan": math.nan, "many": np.int64(3), "list": [math.inf]}
    store.emit(Event("step", "rl", 300, metrics=odd, t=1075.0001), Event("run", state="done", t=1080.0))
    assert kept_summary(run) == (whole(run), run.events_path.stat().st_size)
    assert summarised(run)[0].stages["rl"].metrics["many"] == 3
    # The next one goes on from it, and an end that is no end any more does not stay.
    again = RunStore(run.path)
    monkeypatch.setattr(run_store, "SUMMARY_S", 0)
    again.summary_due = 0
    again.emit(Event("run", state="started", t=1090.0), *steps(301, 310))
    assert kept_summary(run) == (whole(run), run.events_path.stat().st_size)
    assert summarised(run)[0].ended == ""


def test_values_whose_sum_is_no_number_do_not_spoil_the_summary(run: RunDir) -> None:
    store = RunStore(run.path)
    store.emit(
        *(Event("step", "rl", n, metrics={"a": 1e308, "b": -1e308, "c": 1.0}, t=5.0) for n in range(9))
    )
    store.emit(Event("run", state="done", t=6.0))
    assert kept_summary(run) is not None
    courses = summarised(run)[0].stages["rl"].courses
    assert courses["a"].means().tolist() == [LARGEST] * 9
    assert courses["c"].means().tolist() == [1.0] * 9


def test_a_store_that_emits_nothing_does_not_read_the_events(run: RunDir) -> None:
    run.events_path.mkdir()
    store = RunStore(run.path)
    assert store.checkpoint_step("rl") == -1


def test_a_summary_for_which_there_is_no_room_costs_nothing_but_itself(run: RunDir) -> None:
    store = RunStore(run.path)
    run.summary_path.mkdir()
    store.emit(*story(), Event("run", state="done", t=1200.0))
    assert whole(run).ended == "done"
    assert [path.name for path in run.path.iterdir() if path.name.startswith(".")] == []
    assert kept_summary(run) is None and summarised(run)[0] == whole(run)


def test_the_stages_that_a_run_has_from_another_are_summed_up_too(run: RunDir) -> None:
    EventLog(run.events_path).append([*steps(1, 5, "sft"), *steps(1, 9, "pretrain"), *steps(1, 3)])
    branch = run.branch("two", Config(), ["pretrain", "sft"])
    assert [event.stage for event in branch.all_events()] == ["sft"] * 4 + ["pretrain"] * 8
    summary_file.keep_inherited(branch)
    events = branch.inherited_path.read_bytes()
    branch.inherited_path.write_bytes(b"{}".ljust(len(events) - 1) + b"\n")
    kept = summary_file.inherited(branch)
    branch.inherited_summary_path.unlink()
    branch.inherited_path.write_bytes(events)
    found = summary_file.inherited(branch)
    assert kept == found, "the events are not read again"
    assert {name: stage.step for name, stage in found.stages.items() if stage.step} == {
        "sft": 4,
        "pretrain": 8,
    }
