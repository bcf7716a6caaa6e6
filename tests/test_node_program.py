"""The program that starts and ends Ray on nodes, run here on processes of its kind: nothing of it is left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cli.processes import MARK, cluster_processes
from cli.remote import node

SHARE = {"roles": ["rollout"], "cpus": 2, "gpus": None, "python": None}


@pytest.fixture
def job(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A job that starts something which looks like a raylet, and ends when that runs."""
    raylet = tmp_path / "raylet"
    shutil.copy("/bin/sleep", raylet)
    cluster = uuid.uuid4().hex
    job = {
        "cluster": cluster,
        "node": "gpu1",
        "folder": f"streamrec-{cluster[:8]}-test",
        "command": ["sh", "-c", f"{raylet} 600 & until grep -q raylet /proc/$!/comm; do :; done"],
        "variables": {MARK: cluster, node.NODE_MARK: "gpu1"},
        "without": [],
        "token": "secret",
        "share": SHARE,
        "seconds": 20,
        "anew": False,
    }
    yield job
    node.main(job | {"do": "end"})


def test_what_runs_is_told_with_what_it_was_started(job: dict[str, Any]) -> None:
    started = node.main(job | {"do": "start"})
    assert started["state"] == "started" and started["share"] == SHARE
    assert Path(node.folder_of(job)).stat().st_mode & 0o777 == 0o700
    again = node.main(job | {"do": "start", "share": SHARE | {"roles": ["reward"]}})
    assert again == started | {"state": "running"}
    assert node.main(job | {"do": "look"}) == {"pids": started["pids"], "runs": True, "share": SHARE}
    assert node.main(job | {"do": "end"}) == {"ended": started["pids"], "left": []}
    assert node.main(job | {"do": "look"}) == {"pids": [], "runs": False, "share": {}}


def test_what_was_given_up_is_started_anew(job: dict[str, Any]) -> None:
    first = node.main(job | {"do": "start"})
    second = node.main(job | {"do": "start", "anew": True, "share": SHARE | {"roles": ["reward"]}})
    assert second["state"] == "started" and second["share"]["roles"] == ["reward"]
    assert not set(first["pids"]) & set(second["pids"])


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["/no/such/program"], "No such file"),
        (["sh", "-c", "echo why; exit 3"], r"exit code 3.*\n  why"),
        (["sh", "-c", "echo why"], r"ended at once.*\n  why"),
        # What goes on is no raylet.
        (["sh", "-c", "sleep 600 &"], "ended at once"),
    ],
    ids=str,
)
def test_a_start_that_fails_leaves_nothing(job: dict[str, Any], command: list[str], said: str) -> None:
    # In the place of one that ran, which must not be taken for the new one.
    assert node.main(job | {"do": "start"})["state"] == "started"
    answer = node.main(job | {"do": "start", "anew": True, "command": command})
    assert answer["left"] == []
    with pytest.raises(AssertionError, match=f"(?s){said}"):
        raise AssertionError(answer["error"])
    assert node.marked(job) == [] and not Path(node.folder_of(job)).exists()


def test_what_is_left_when_the_end_fails_too_is_told(job: dict[str, Any], tmp_path: Path) -> None:
    assert node.main(job | {"do": "start"})["state"] == "started"
    folder = Path(node.folder_of(job))
    shutil.rmtree(folder)
    # Somebody made a link of that name.
    folder.symlink_to(tmp_path)
    ended = node.main(job | {"do": "end"})
    assert "made by somebody else" in ended["error"] and ended["left"] == []
    assert node.marked(job) == [] and tmp_path.is_dir()
    folder.unlink()


def test_head_and_nodes_take_the_same_processes_for_those_of_a_cluster(
    job: dict[str, Any], tmp_path: Path
) -> None:
    real = tmp_path / "real"
    real.mkdir()
    # A link on the way, as /tmp is one on some systems.
    folder = Path(node.folder_of(job))
    folder.symlink_to(real)
    plain = {name: value for name, value in os.environ.items() if name not in job["variables"]}
    marked = plain | job["variables"]
    (real / "read").touch()
    with (
        open(folder / "written", "w") as written,
        open(folder / "deleted", "w") as deleted,
        open(folder / "read") as read,
    ):
        (folder / "deleted").unlink()
        parent = subprocess.Popen(
            ["sh", "-c", f"env -u {MARK} -u {node.NODE_MARK} sleep 600; true"], env=marked
        )
        ours = [
            parent,
            subprocess.Popen(["sleep", "600"], env=marked),
            subprocess.Popen(["sleep", "600"], env=plain, stdout=written),
            subprocess.Popen(["sleep", "600"], env=plain, stdout=deleted),
        ]
        others = [
            subprocess.Popen(["sleep", "600"], env=plain | {MARK: "another", node.NODE_MARK: "gpu1"}),
            subprocess.Popen(["sleep", "600"], env=plain, stdin=read),
        ]
    try:
        while [child.name() for child in psutil.Process(parent.pid).children()] != ["sleep"]:
            pass
        expected = {process.pid for process in ours} | {psutil.Process(parent.pid).children()[0].pid}
        assert {process.pid for process in cluster_processes(job["cluster"], str(folder))} == expected
        assert set(node.marked(job)) == expected
    finally:
        for process in (*psutil.Process(parent.pid).children(), *ours, *others):
            process.kill()
        for process in (*ours, *others):
            process.wait()
        folder.unlink()
