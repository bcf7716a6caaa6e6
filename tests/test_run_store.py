"""The store of a run when its disk is full, and when its checkpoints are damaged."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from streamrec_dist.config import Config
from streamrec_dist.events import Event, EventReader
from streamrec_dist.rundir import Checkpoint, RunDir
from streamrec_dist.stages.run_store import RunStore


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(RunDir.create(tmp_path, "one", Config()).path)


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_events_that_find_no_room_are_written_when_there_is(store: RunStore) -> None:
    store.emit(Event("run", state="started"))
    with no_file_beyond(store.run.events_path.stat().st_size + 30):
        for step in (1, 2):
            store.emit(Event("step", "rl", step=step))
    torn = store.run.events_path.read_bytes()
    assert not torn.endswith(b"\n"), "a part of a line was written"
    store.emit(Event("step", "rl", step=3))
    events = EventReader(store.run.events_path).new()
    assert [event.step for event in events if event.kind == "step"] == [1, 2, 3]
    assert [event.message for event in events if event.kind == "warning"][-1].startswith(
        "events could not be written for some time ([Errno 27] File too large"
    )


def test_without_a_sound_checkpoint_a_stage_begins_anew(store: RunStore) -> None:
    best = {"step": -1, "misses": 0, "metrics": {}}
    for step in (3, 6):
        state = {"epoch": step, "seconds": 1.0, "best": best}
        store.save_checkpoint(Checkpoint("pretrain", step, {"w": np.ones(3)}, state))
        folder = store.run.path / "checkpoints" / "pretrain" / f"step-{step:08d}"
        (folder / "state.msgpack").write_bytes(b"")
    assert store.newest_checkpoint("pretrain") is None
    said = [event.message for event in EventReader(store.run.events_path).new()]
    assert "step-00000006: damaged checkpoint" in said[0] and said[0].endswith("the one before is taken")
    assert "step-00000003: damaged checkpoint" in said[1] and said[1].endswith("the stage begins anew")
    assert sorted(path.name for path in folder.parent.iterdir()) == ["damaged-00000003", "damaged-00000006"]
