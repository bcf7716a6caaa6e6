"""What ends a run: with one clear error, nothing left over, and a run that can be resumed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamrec_dist.events import Event, EventReader
from streamrec_dist.rundir import RunDir
from tests.conftest import last_json, run_cli
from tests.test_faults import wait_for, wait_for_workers

pytestmark = pytest.mark.cluster

ROLES = ("RolloutActor", "RewardActor", "EvaluateActor", "LearnerWorker", "StoreActor", "Controller")


@pytest.fixture
def small_disk(cluster_root: Path) -> Iterator[Path]:
    """The cluster's folder, its runs on a disk of 24 MiB."""
    runs = cluster_root / "runs"
    runs.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(runs)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield cluster_root
    subprocess.run(["umount", "--lazy", str(runs)], check=True)


def end_of(run: RunDir) -> Event:
    """The event that says how a run ended, waited for."""
    wait_for(run, lambda event: event.kind == "run" and event.state != "started", 1, 120)
    return EventReader(run.events_path).new()[-1]


def test_a_full_disk_ends_a_run_that_can_be_resumed_with_room(small_disk: Path) -> None:
    settings = ["--set", "stages.rl.steps=100000", "--set", "stages.rl.checkpoint_every=5"]
    started = run_cli("train", "--stage", "rl", "--run", "full", "--detach", *settings, cwd=small_disk)
    assert started.returncode == 0, started.stderr
    run = RunDir.open(small_disk / "runs" / "full")
    wait_for(run, lambda event: event.kind == "step" and event.stage == "rl", 10)
    filler = small_disk / "runs" / "filler"
    room = shutil.disk_usage(small_disk / "runs").free
    # Room for events, and for no checkpoint more.
    filler.write_bytes(bytes(max(room - 60 * 2**10, 0)))
    ended = end_of(run)
    assert ended.state == "failed"
    assert "No space left on device" in ended.message and "\n" not in ended.message
    wait_for_workers(small_disk, **dict.fromkeys(ROLES, 0))

    filler.unlink()
    kept = run.checkpoint_steps("rl")[-1]
    again = run_cli("train", "--stage", "rl", "--run", "full", "--resume", "--detach", cwd=small_disk)
    assert again.returncode == 0, again.stderr
    wait_for(run, lambda event: event.kind == "step" and event.stage == "rl" and event.step == kept + 20, 1)
    assert last_json(run_cli("stop", "full", "--json", cwd=small_disk))["state"] == "stopped"
