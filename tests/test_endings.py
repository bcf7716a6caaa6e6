"""What ends a run: with one clear error, nothing left over, and a run that can be resumed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from cli.processes import MARK, cluster_processes
from cli.ray_head import ray_variables
from cli.record import ClusterRecord, read_record
from streamrec_dist.events import Event, EventReader
from streamrec_dist.rundir import RunDir
from tests.conftest import last_json, run_cli
from tests.test_faults import wait_for, wait_for_workers

pytestmark = pytest.mark.cluster(waits=True)

#: Joins a second node on this machine, to which rollout actors are bound. `ray start` refuses to on loopback.
NODE = """
from ray._private.node import Node
from ray._private.parameter import RayParams
parameters = RayParams(
    gcs_address="{address}", node_ip_address="127.0.0.1", num_cpus=1, resources={{"role:rollout": 1}},
    object_store_memory=2**27,
    include_log_monitor=False, dashboard_agent_listen_port=0,
)
Node(parameters, head=False, shutdown_at_exit=False, spawn_reaper=False)
"""
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

    with contextlib.suppress(OSError), filler.open("ab") as file:
        while True:
            file.write(bytes(2**12))
            file.flush()
    resume = ("train", "--resume", "--run", "full", "--detach")
    refused = run_cli(*resume, cwd=small_disk)
    assert refused.returncode == 1 and "No space left on device" in refused.stderr, refused.stderr
    assert "Traceback" not in refused.stderr and "ray::" not in refused.stderr
    wait_for_workers(small_disk, **dict.fromkeys(ROLES, 0))

    filler.unlink()
    kept = run.checkpoint_steps("rl")[-1]
    with ThreadPoolExecutor() as pool:
        twice = [pool.submit(run_cli, *resume, cwd=small_disk) for _ in range(2)]
        began, refused = sorted((one.result() for one in twice), key=lambda done: done.returncode)
    assert began.returncode == 0, began.stderr
    assert refused.returncode == 2 and "run full is going already" in refused.stderr, refused.stderr
    wait_for(run, lambda event: event.kind == "step" and event.stage == "rl" and event.step == kept + 20, 1)
    assert last_json(run_cli("stop", "full", "--json", cwd=small_disk))["state"] == "stopped"


def the_cluster(root: Path) -> ClusterRecord:
    record = read_record(root)
    assert record is not None
    return record


def server(root: Path, name: str) -> psutil.Process:
    """The newest of Ray's own processes of a name in the cluster of `root`."""
    found = [one for one in cluster_processes(the_cluster(root).cluster_id) if one.name() == name]
    return max(found, key=lambda process: process.create_time())


@pytest.fixture(scope="module")
def base(cluster_root: Path) -> str:
    """The name of a run of stages 0 to 2."""
    trained = run_cli("train", "--stage", "sft", "--run", "base", cwd=cluster_root)
    assert trained.returncode == 0, trained.stderr
    return "base"


def test_fewer_nodes_than_the_minimum_end_a_run(cluster_root: Path, base: str) -> None:
    record = the_cluster(cluster_root)
    environment = {**os.environ, **ray_variables(record.token_path, record.host), MARK: record.cluster_id}
    program = NODE.format(address=record.address)
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)
    settings = ["stages.rl.steps=100000", "cluster.patience_s=40"]
    settings += [f"actors.rollout.{key}" for key in ("replicas=2", "minimum=2", "cpus=.4")]
    overrides = [word for setting in settings for word in ("--set", setting)]
    branch = ("--run", "few", "--from", base, "--detach")
    started = run_cli("train", "--stage", "rl", *branch, *overrides, cwd=cluster_root)
    assert started.returncode == 0, started.stderr
    run = RunDir.open(cluster_root / "runs" / "few")
    wait_for(run, lambda event: event.kind == "step" and event.stage == "rl", 5)
    raylet = server(cluster_root, "raylet")
    for process in (raylet, *raylet.children(recursive=True)):
        process.kill()
    ended = end_of(run)
    assert ended.state == "failed"
    assert "0 rollout actors are up, actors.rollout.minimum is 2" in ended.message
    wait_for_workers(cluster_root, **dict.fromkeys(ROLES, 0))


def test_a_lost_head_ends_a_run_that_goes_on_in_a_new_cluster(cluster_root: Path, base: str) -> None:
    settings = ["--set", "stages.rl.steps=100000", "--set", "stages.rl.checkpoint_every=5"]
    branch = ("--run", "headless", "--from", base, "--detach")
    started = run_cli("train", "--stage", "rl", *branch, *settings, cwd=cluster_root)
    assert started.returncode == 0, started.stderr
    run = RunDir.open(cluster_root / "runs" / "headless")
    wait_for(run, lambda event: event.kind == "step" and event.stage == "rl", 10)
    lost = the_cluster(cluster_root).cluster_id
    # Without its raylet the controller is gone, and without the other nobody starts it again.
    for name in ("gcs_server", "raylet"):
        server(cluster_root, name).kill()
    watched = run_cli("watch", "headless", "--plain", cwd=cluster_root)
    assert watched.returncode == 1
    assert "died without a word" in watched.stderr and "--resume" in watched.stderr

    again = run_cli("up", "cluster.yaml", cwd=cluster_root)
    assert again.returncode == 0, again.stderr
    assert not cluster_processes(lost)
    kept, before = run.checkpoint_steps("rl")[-1], EventReader(run.events_path).new()
    resumed = run_cli("train", "--stage", "rl", "--run", "headless", "--resume", "--detach", cwd=cluster_root)
    assert resumed.returncode == 0, resumed.stderr
    made = sum(event.kind == "step" for event in before)
    wait_for(run, lambda event: event.kind == "step", made + 10)
    steps = [event.step for event in EventReader(run.events_path).new() if event.kind == "step"]
    assert steps[made : made + 10] == list(range(kept + 1, kept + 11))
    assert last_json(run_cli("stop", "headless", "--json", cwd=cluster_root))["state"] == "stopped"
