"""The record of a cluster: what commands would end and remove is checked before it is believed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from cli.cluster import alive, find_record
from cli.here import this_place
from cli.processes import MARK
from cli.record import FOLDER, ClusterRecord, NodeRecord, locked, read_record
from streamrec_dist.errors import EnvironmentProblem
from tests.conftest import last_json, run_cli

CLUSTER_ID = "0123456789abcdef" * 2


def written(root: Path, **changes: object) -> Path:
    """A record as `up` writes it, but for some fields; its file."""
    record = ClusterRecord(
        root=str(root),
        config_path="cluster.yaml",
        cluster_id=CLUSTER_ID,
        created_by_us=True,
        place=this_place(),
        address="10.0.0.5:6379",
        temp_dir="/tmp/streamrec-abc",
        pids=(7, 8),
        nodes=(NodeRecord({"host": "gpu1"}, (5,)),),
    )
    (root / FOLDER).mkdir(exist_ok=True)
    path = root / FOLDER / "cluster.json"
    path.write_text(json.dumps(asdict(record) | changes), encoding="utf-8")
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written(tmp_path)
    record = read_record(tmp_path)
    assert record is not None
    assert (record.pids, record.host, record.nodes[0].name) == ((7, 8), "10.0.0.5", "gpu1")
    assert read_record(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"cluster_id": None},
        {"cluster_id": ""},
        {"cluster_id": "../x"},
        {"temp_dir": "/home"},
        {"temp_dir": "/home/streamrec-a"},
        {"temp_dir": "/tmp/other/streamrec-a"},
        {"temp_dir": "/tmp/streamrec-a/.."},
        {"address": "10.0.0.5"},
        {"address": "10.0.0.5:99999"},
        {"address": "-oProxyCommand=x y:1"},
        {"place": None},
        {"place": {"host": "gpu7"}},
        {"started": float("inf")},
        {"temp_dir": ["/tmp/streamrec-a"]},
        {"pids": ["1"]},
        {"pids": 1},
        {"nodes": [{"settings": {"host": "-oProxyCommand=x"}, "pids": []}]},
        {"nodes": {}},
        {"created_by_us": "yes"},
    ],
    ids=str,
)
def test_what_nobody_here_would_have_written_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    written(tmp_path, **changes)
    with pytest.raises(EnvironmentProblem, match="not a record of a cluster"):
        read_record(tmp_path)


@pytest.mark.parametrize("content", ["", "[" * 100_000, "{}", "null", "\udcff"], ids=len)
def test_what_is_no_record_is_refused(tmp_path: Path, content: str) -> None:
    written(tmp_path).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(EnvironmentProblem, match="start the cluster anew"):
        read_record(tmp_path)


def test_a_link_to_a_record_is_not_followed(tmp_path: Path) -> None:
    real = written(tmp_path)
    (tmp_path / "trap" / FOLDER).mkdir(parents=True)
    (tmp_path / "trap" / FOLDER / "cluster.json").symlink_to(real)
    with pytest.raises(EnvironmentProblem):
        read_record(tmp_path / "trap")


def test_a_folder_of_records_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "trap").mkdir()
    (tmp_path / "trap" / FOLDER).symlink_to(tmp_path / FOLDER)
    with pytest.raises(EnvironmentProblem, match="is a link"):
        read_record(tmp_path / "trap")
    with pytest.raises(EnvironmentProblem, match="is a link"), locked(tmp_path / "trap"):
        pytest.fail("what is in the folder would be changed")


def test_a_file_that_is_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / "private.txt").write_text("untouched", encoding="utf-8")
    (tmp_path / FOLDER / ".gitignore").symlink_to(tmp_path / "private.txt")
    with locked(tmp_path):
        assert (tmp_path / FOLDER / ".gitignore").read_text(encoding="utf-8") == "*\n"
    assert (tmp_path / "private.txt").read_text(encoding="utf-8") == "untouched"


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that every user can enter."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can leave something in another user's name")
def test_records_of_other_users_are_none(open_to_all: Path) -> None:
    written(open_to_all)
    folder = open_to_all / FOLDER
    os.chown(folder, 65533, 65533)
    folder.chmod(0o700)
    assert read_record(open_to_all) is None
    with pytest.raises(EnvironmentProblem, match="another user's"), locked(open_to_all):
        pytest.fail("what is in the folder would be changed")
    # Without root's rights that folder cannot be entered.
    os.seteuid(65534)
    try:
        assert read_record(open_to_all) is None
        assert find_record(open_to_all) is None
    finally:
        os.seteuid(0)


def test_a_private_folder_is_ours_and_no_link(tmp_path: Path) -> None:
    with TemporaryDirectory(prefix="streamrec-", dir="/tmp") as made:
        written(tmp_path, temp_dir=made)
        assert read_record(tmp_path) is not None
        Path(made).chmod(0o755)
        with pytest.raises(EnvironmentProblem, match="none that was made here"):
            read_record(tmp_path)
    Path(made).symlink_to(tmp_path)
    try:
        with pytest.raises(EnvironmentProblem, match="none that was made here"):
            read_record(tmp_path)
    finally:
        Path(made).unlink()


def test_no_record_is_looked_for_among_the_runs_of_a_project(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "demo"
    (run / "stages").mkdir(parents=True)
    written(run, created_by_us=False, address="203.0.113.7:6379")
    # A folder that is called so, and no project's, may hold projects.
    found = find_record(run / "stages")
    assert found is not None and found.root == str(run)
    (tmp_path / "cluster.yaml").touch()
    assert find_record(run / "stages") is None
    written(tmp_path)
    found = find_record(run / "stages")
    assert found is not None and found.root == str(tmp_path)


@pytest.mark.parametrize("created_by_us", [True, False])
def test_a_cluster_of_another_machine_is_left_to_it(
    tmp_path: Path, created_by_us: bool, stranger: int
) -> None:
    elsewhere = {"host": "gpu7", "machine": "another", "processes": "another boot"}
    path = written(tmp_path, created_by_us=created_by_us, place=elsewhere)
    (tmp_path / "cluster.yaml").write_text("cluster: {}", encoding="utf-8")
    before = path.read_bytes()
    refused = [
        run_cli(*words, cwd=tmp_path) for words in (("status",), ("up",), ("down",))[: 2 + created_by_us]
    ]
    for done in refused:
        assert done.returncode == 3 and "runs on gpu7" in done.stderr and "--forget" in done.stderr
    assert path.read_bytes() == before
    forgotten = run_cli("down", "--forget", "--json", cwd=tmp_path)
    assert forgotten.returncode == 0, forgotten.stderr
    assert last_json(forgotten) == {
        "state": "forgotten",
        "address": "10.0.0.5:6379",
        "ended": [],
        "nodes": {},
        "failures": {},
    }
    assert not path.exists() and psutil.pid_exists(stranger)


def test_a_machine_that_was_started_again_is_the_same() -> None:
    here = this_place()
    assert here.is_here()
    assert replace(here, processes="an earlier boot").is_here()
    assert replace(here, host="its earlier name").is_here()
    assert not replace(here, host="another", processes="another boot").is_here()
    assert not replace(here, machine="another", processes="another boot").is_here()
    assert not replace(here, host="another", processes="").is_here()


def test_the_cluster_of_a_machine_that_was_started_again_is_not_alive(tmp_path: Path) -> None:
    written(tmp_path, place=asdict(replace(this_place(), processes="an earlier boot")))
    record = read_record(tmp_path)
    assert record is not None and not alive(record)


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process that carries the mark of the cluster in the record."""
    process = subprocess.Popen(["sleep", "600"], env={**os.environ, MARK: CLUSTER_ID})
    yield process.pid
    process.kill()
    process.wait()
