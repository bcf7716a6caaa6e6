"""Names and links that lead elsewhere: a run is a folder in runs/, and what belongs to it stays inside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.here import this_place
from cli.plan import plan_branch
from cli.record import ClusterRecord
from cli.workspace import pick_run
from streamrec_dist.data.files import load_dataset, save_dataset
from streamrec_dist.errors import DataError, UsageError
from streamrec_dist.events import Event
from streamrec_dist.rundir import RunDir, newest_run
from streamrec_dist.stages.run_store import RunStore
from tests.hostile import Yard, config, fresh_yard, small_dataset

OUTSIDE = ["../outside", "demo/../../outside", "/tmp", ".", "..", "", "a/b", "a\x00b", "-rf", ".hidden"]


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    yard = fresh_yard(tmp_path)
    RunDir.create(tmp_path, "outside", config())
    return yard


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_run_is_named_and_no_path(yard: Yard, name: str) -> None:
    runs, before = yard.folder / "runs", yard.around()
    if name:
        with pytest.raises(UsageError, match="cannot name a run"):
            pick_run(name, runs)
    record = ClusterRecord(str(yard.folder), "cluster.yaml", "0123456789abcdef" * 2, True, this_place())
    with pytest.raises(UsageError, match="cannot name a run"):
        plan_branch(record, name, "rl", "new", None, [])
    with pytest.raises(UsageError, match="cannot name a run"):
        RunDir.create(runs, name, config())
    assert yard.around() == before
    assert pick_run("demo", runs).name == "demo"


@pytest.mark.parametrize("inside", ["checkpoints", "events.jsonl", "items/embeddings", "stages/new.json"])
@pytest.mark.parametrize("target", ["../../private.txt", "../../outside", "{folder}/outside"])
def test_a_link_out_of_a_run_is_refused_before_anything_is_written(
    yard: Yard, inside: str, target: str
) -> None:
    link, moved = yard.run / inside, yard.run / "moved"
    if link.exists():
        link.rename(moved)
    link.symlink_to(target.format(folder=yard.folder))
    for use in (
        lambda: RunStore(yard.run).emit(Event("run")),
        lambda: RunDir.open(yard.run),
        lambda: RunDir.find(yard.folder / "runs", "demo"),
        lambda: newest_run(yard.folder / "runs"),
    ):
        with pytest.raises(DataError, match=f"{inside}: a link that leads out of the run"):
            use()
    assert (yard.folder / "private.txt").read_text() == "untouched"
    assert [path.name for path in (yard.folder / "outside").iterdir()] == ["config.yaml"]


def test_links_within_a_run_and_to_a_run_are_followed(yard: Yard) -> None:
    (yard.run / "latest.json").symlink_to("stages/pretrain.json")
    (yard.folder / "runs" / "alias").symlink_to(yard.run)
    assert RunDir.open(yard.run).last_model() == "pretrain"
    assert RunDir.find(yard.folder / "runs", "alias").last_model() == "pretrain"


@pytest.mark.parametrize(
    "files", ["../other/files-000000000000", "/etc", "..", "", "files-0123", "files-000000000000/.."]
)
def test_the_parts_of_prepared_data_lie_in_their_own_folder(tmp_path: Path, files: str) -> None:
    save_dataset(small_dataset(), tmp_path / "data")
    manifest = tmp_path / "data" / "dataset.json"
    body = json.loads(manifest.read_text())
    (tmp_path / "data" / body["files"]).rename(tmp_path / "elsewhere")
    manifest.write_text(json.dumps(body | {"files": files}))
    with pytest.raises(DataError, match=r"dataset.json: files: String should match"):
        load_dataset(tmp_path / "data")


def test_a_dataset_has_no_parts_of_other_names(tmp_path: Path) -> None:
    save_dataset(small_dataset(), tmp_path / "data")
    manifest = tmp_path / "data" / "dataset.json"
    body = json.loads(manifest.read_text())
    body["content"]["../../secret"], body["bytes"]["../../secret"] = "0", 0
    manifest.write_text(json.dumps(body))
    with pytest.raises(DataError, match=r"dataset.json: expected the parts interactions, items, users"):
        load_dataset(tmp_path / "data")
