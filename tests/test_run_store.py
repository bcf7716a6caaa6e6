"""The store of a run: its view of the data, which must stay what they were; a full disk; damaged checkpoints."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from streamrec_dist.config import Config
from streamrec_dist.config_file import load_config
from streamrec_dist.data.prepare import prepare
from streamrec_dist.errors import DataError
from streamrec_dist.events import Event, EventReader
from streamrec_dist.rundir import Checkpoint, RunDir
from streamrec_dist.stages.run_store import RunStore
from tests.conftest import TINY


def test_prepared_data_must_stay_what_the_run_began_with(folder: Path) -> None:
    prepare(folder / "shop", "csv", folder / "prepared")
    (folder / "cluster.yaml").write_text(TINY.replace("path: shop", "path: prepared"), encoding="utf-8")
    run = RunDir.create(folder / "runs", "one", load_config(folder / "cluster.yaml"))
    first = RunStore(run.path).dataset()
    assert RunStore(run.path).dataset().content_hash == first.content_hash
    assert not run.dataset_path.exists(), "prepared data are used where they lie"

    interactions = folder / "shop" / "interactions.csv"
    interactions.write_text(interactions.read_text().replace("u0,i0", "u0,i59"), encoding="utf-8")
    prepare(folder / "shop", "csv", folder / "prepared")
    with pytest.raises(DataError, match="not what run one began with"):
        RunStore(run.path).dataset()


def test_altered_data_are_refused_before_anything_is_trained(folder: Path) -> None:
    prepare(folder / "shop", "csv", folder / "prepared")
    (folder / "cluster.yaml").write_text(TINY.replace("path: shop", "path: prepared"), encoding="utf-8")
    run = RunDir.create(folder / "runs", "one", load_config(folder / "cluster.yaml"))
    own = RunDir.create(
        folder / "runs", "own", load_config(folder / "cluster.yaml", [f"data.path={folder / 'shop'}"])
    )
    for store, place in ((RunStore(run.path), folder / "prepared"), (RunStore(own.path), own.dataset_path)):
        assert store.dataset() is store.dataset(), "read and verified once a process"
        (items,) = place.rglob("items.arrow")
        items.write_bytes(items.read_bytes().replace(b"lamp", b"lump"))
    for path in (run.path, own.path):
        with pytest.raises(DataError, match=r"items\.arrow: its content is not what dataset\.json recorded"):
            RunStore(path).dataset()


def test_given_ids_of_other_items_are_refused_before_anything_is_embedded(folder: Path) -> None:
    write = folder / "other.index.json"
    write.write_text('{"0": ["<a_1>", "<b_2>", "<c_3>", "<d_4>"]}', encoding="utf-8")
    config = load_config(folder / "cluster.yaml", [f"items.ids={write}"])
    run = RunDir.create(folder / "runs", "given", config)
    with pytest.raises(DataError, match=r"other\.index\.json: has no id for item 'i0' \(60 of 60"):
        RunStore(run.path).given_ids()


def test_embeddings_of_other_weights_are_made_anew(folder: Path) -> None:
    store = RunStore(RunDir.create(folder / "runs", "one", load_config(folder / "cluster.yaml")).path)
    (whole,) = store.missing_embeddings("weights a")
    store.write_embeddings(whole[0], np.ones((whole[1], 4), np.float32))
    assert store.missing_embeddings("weights a") == []
    assert store.missing_embeddings("weights b") == [whole]


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
