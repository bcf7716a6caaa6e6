"""What `down` does to what it finds, and cannot reach, where no Ray has to run."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cli.here import this_place
from cli.processes import MARK
from cli.record import ClusterRecord, NodeRecord, locked, read_record
from streamrec_dist.cluster_config import NodeConfig
from tests.conftest import REPO, last_json, run_cli


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "cluster.yaml").write_text("cluster: {}", encoding="utf-8")
    return tmp_path


@pytest.fixture
def two_clusters(root: Path) -> Iterator[list[tuple[ClusterRecord, psutil.Process]]]:
    """Records of two clusters, and a process of each; only the first is saved."""
    made = []
    for _ in range(2):
        record = ClusterRecord(str(root), "cluster.yaml", uuid.uuid4().hex, True, this_place())
        environment = {**os.environ, MARK: record.cluster_id}
        made.append((record, psutil.Process(subprocess.Popen(["sleep", "600"], env=environment).pid)))
    with locked(root):
        made[0][0].save()
    yield made
    for _, process in made:
        if process.is_running():
            process.kill()
        process.wait()


def down_waiting(root: Path) -> subprocess.Popen[str]:
    """A `down` that has found the record and waits for whoever holds it."""
    program = [sys.executable, "-m", "cli.app", "down", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    down = subprocess.Popen(
        program, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert down.stderr and down.stderr.readline().startswith("taking down the cluster of")
    return down


def test_down_ends_what_is_there_when_its_turn_comes(
    root: Path, two_clusters: list[tuple[ClusterRecord, psutil.Process]]
) -> None:
    (_, earlier), (newer, process) = two_clusters
    with locked(root):
        down = down_waiting(root)
        newer.save()
    said, _ = down.communicate(timeout=60)
    assert down.returncode == 0 and json.loads(said)["ended"] == [process.pid]
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    assert earlier.is_running() and earlier.status() != psutil.STATUS_ZOMBIE
    assert read_record(root) is None


def test_of_two_downs_one_ends_the_cluster_and_the_other_says_that_there_is_none(
    root: Path, two_clusters: list[tuple[ClusterRecord, psutil.Process]]
) -> None:
    with locked(root):
        both = [down_waiting(root) for _ in range(2)]
    told = [down.communicate(timeout=60) for down in both]
    assert [down.returncode for down in both] == [0, 0]
    assert sorted(json.loads(said)["state"] for said, _ in told) == ["down", "none"]
    assert sorted("no cluster in" in stderr for _, stderr in told) == [False, True]


@pytest.mark.skipif(not shutil.which("ssh"), reason="no ssh here")
def test_a_node_that_cannot_be_reached_is_kept_until_it_is_given_up(root: Path) -> None:
    with socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))
        node = NodeConfig(host="127.0.0.1", port=refusing.getsockname()[1], roles=("rollout",))
        known = NodeRecord(node.model_dump(mode="json"), (7,))
        record = ClusterRecord(
            str(root), "cluster.yaml", uuid.uuid4().hex, True, this_place(), "10.0.0.5:7000", nodes=(known,)
        )
        with locked(root):
            record.save()
        down = run_cli("down", "--json", cwd=root)
        assert down.returncode == 3 and "Connection refused" in down.stderr and "--forget" in down.stderr
        body = last_json(down)
        assert (body["state"], set(body["failures"])) == ("incomplete", {node.name})
        assert read_record(root) == replace(record, address="")

        up = run_cli("up", cwd=root)
        assert up.returncode == 3 and "may still have processes" in up.stderr and "--forget" in up.stderr
        assert read_record(root) == replace(record, address="")

        forgotten = run_cli("down", "--forget", "--json", cwd=root)
        assert forgotten.returncode == 0 and "given up: 127.0.0.1" in forgotten.stderr
        body = last_json(forgotten)
        assert (body["state"], set(body["failures"])) == ("given up", {node.name})
        assert read_record(root) is None


def test_a_cluster_that_was_attached_to_is_forgotten(root: Path) -> None:
    record = ClusterRecord(str(root), "cluster.yaml", uuid.uuid4().hex, False, this_place(), "10.0.0.5:7000")
    with locked(root):
        record.save()
    down = run_cli("down", "--json", cwd=root)
    assert down.returncode == 0 and "it may go on" in down.stderr
    assert last_json(down)["state"] == "forgotten" and read_record(root) is None
