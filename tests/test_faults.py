"""Processes that die while a run goes on: the run finishes all the same."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cli.processes import cluster_processes
from cli.record import read_record
from streamrec_dist.events import Event, EventReader
from streamrec_dist.rundir import RunDir
from tests.conftest import last_json, run_cli

pytestmark = pytest.mark.cluster(waits=True)


def wait_for(run: RunDir, happened: Callable[[Event], bool], count: int, seconds: float = 120) -> None:
    """Until `count` events of a kind are there."""
    give_up = time.monotonic() + seconds
    while sum(happened(event) for event in EventReader(run.events_path).new()) < count:
        assert time.monotonic() < give_up, [
            event.to_json() for event in EventReader(run.events_path).new()[-3:]
        ]
        time.sleep(0.1)


def workers(root: Path, role: str) -> list[psutil.Process]:
    """The processes of one role in the cluster of `root`."""
    record = read_record(root)
    assert record is not None
    named = []
    for process in cluster_processes(record.cluster_id):
        try:
            if process.cmdline() and process.cmdline()[0].startswith(f"ray::{role}"):
                named.append(process)
        except psutil.NoSuchProcess:
            continue
    return named


def wait_for_workers(root: Path, **wanted: int) -> None:
    """Until there are so many processes of each role."""
    give_up = time.monotonic() + 60
    while (found := {role: len(workers(root, role)) for role in wanted}) != wanted:
        assert time.monotonic() < give_up, found
        time.sleep(0.2)


def killed(root: Path, role: str, sign: signal.Signals = signal.SIGKILL) -> int:
    """Send a signal to the first process of a role."""
    process = workers(root, role)[0]
    os.kill(process.pid, sign)
    return process.pid


def test_a_run_survives_what_happens_to_its_processes(cluster_root: Path) -> None:
    """In one run: a process of each role, the store and the controller die, one is frozen, and all are asked for in
    other numbers."""
    settings = ["stages.rl.steps=100000", "stages.rl.rows=all", "stages.rl.eval_every=100"]
    settings += ["stages.pretrain.epochs=30", "stages.pretrain.patience=30"]
    overrides = [part for setting in settings for part in ("--set", setting)]
    started = run_cli("train", "--stage", "rl", "--run", "torture", "--detach", *overrides, cwd=cluster_root)
    assert started.returncode == 0, started.stderr
    run = RunDir.open(cluster_root / "runs" / "torture")

    wait_for(run, lambda event: event.kind == "eval" and event.stage == "pretrain", 3)
    os.kill(workers(cluster_root, "LearnerWorker")[1].pid, signal.SIGKILL)
    wait_for(
        run, lambda event: event.kind == "stage" and event.stage == "sft" and event.state == "started", 1
    )
    while not workers(cluster_root, "AnnotateActor"):
        time.sleep(0.1)
    killed(cluster_root, "AnnotateActor")

    def steps_on(count: int = 5) -> None:
        """Until so many more steps are made than were."""
        before = sum(
            event.kind == "step" and event.stage == "rl" for event in EventReader(run.events_path).new()
        )
        wait_for(run, lambda event: event.kind == "step" and event.stage == "rl", before + count, 150)

    steps_on()
    scaled = run_cli("scale", "rollout=3", "reward=2", "--json", "--run", "torture", cwd=cluster_root)
    assert last_json(scaled)["scaled"] == {"rollout": 3, "reward": 2}
    for role in ("RolloutActor", "RewardActor", "EvaluateActor", "LearnerWorker", "StoreActor", "Controller"):
        killed(cluster_root, role)
        steps_on()
    wait_for_workers(cluster_root, RolloutActor=3, RewardActor=2)
    told = last_json(run_cli("status", "--json", cwd=cluster_root))["going"]["torture"]
    assert (told["stage"], told["roles"]["rollout"]["target"], told["roles"]["learners"]["ready"]) == (
        "rl",
        3,
        2,
    )
    assert told["version"] <= told["step"] and told["last_event"]["stage"] == "rl"
    record = read_record(cluster_root)
    assert record is not None
    listening = {
        (process.name(), connection.laddr.ip)
        for process in cluster_processes(record.cluster_id, record.temp_dir)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {ip for _, ip in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, listening
    assert any(name.startswith("ray::Learner") for name, _ in listening)
    frozen = killed(cluster_root, "RolloutActor", signal.SIGSTOP)
    steps_on(10)
    assert run_cli("scale", "learners=1", "rollout=1", cwd=cluster_root).returncode == 0
    steps_on(10)
    wait_for_workers(cluster_root, RolloutActor=1, LearnerWorker=1)
    assert not psutil.pid_exists(frozen)

    stopped = run_cli("stop", "torture", "--json", cwd=cluster_root)
    assert last_json(stopped)["state"] == "stopped", stopped.stderr
    events = EventReader(run.events_path).new()
    warnings = [event.message for event in events if event.kind == "warning"]
    assert any(
        message.startswith("stage pretrain goes on from its checkpoint of step ") for message in warnings
    ), warnings
    assert max(event.step for event in events if event.kind == "step" and event.stage == "pretrain") == 90
    # A store that dies writes what it was at once more, after what came next.
    events.sort(key=lambda event: event.t)
    steps = [event.step for event in events if event.kind == "step" and event.stage == "rl"]
    kept: list[int] = []
    for step in steps:
        # What is made again takes the place of what was made of it and after it.
        kept = [*(one for one in kept if one < step), step]
    assert kept == list(range(1, run.checkpoint_steps("rl")[-1] + 1))
    roles = ("RolloutActor", "RewardActor", "EvaluateActor", "LearnerWorker", "StoreActor", "Controller")
    wait_for_workers(cluster_root, **dict.fromkeys(roles, 0))


def test_a_number_that_is_none_and_a_run_that_is_over_are_refused(cluster_root: Path) -> None:
    for wrong, why in (("rollout", "is not ROLE=NUMBER"), ("rollout=2", "torture is not running")):
        refused = run_cli("scale", wrong, "--run", "torture", cwd=cluster_root)
        assert refused.returncode == 2 and why in refused.stderr, refused.stderr


def test_a_run_survives_the_death_of_a_rank_that_trains_the_tokenizer(cluster_root: Path) -> None:
    # Together the embed actor and the ranks would not fit the cluster; they follow one another.
    settings = ["stages.tokenize.epochs=1500", "actors.embed.cpus=2", "learners.cpus=1"]
    overrides = [part for setting in settings for part in ("--set", setting)]
    begun = ("train", "--stage", "tokenize", "--run", "torn", "--detach", *overrides)
    started = run_cli(*begun, cwd=cluster_root)
    assert started.returncode == 0, started.stderr
    run = RunDir.open(cluster_root / "runs" / "torn")
    wait_for(run, lambda event: "recon" in event.metrics, 3)
    os.kill(workers(cluster_root, "TokenizerRank")[1].pid, signal.SIGKILL)

    ended = run_cli("watch", "torn", "--plain", cwd=cluster_root, timeout=240)
    assert ended.returncode == 0, ended.stderr + ended.stdout[-2000:]
    events = EventReader(run.events_path).new()
    (warning,) = [event.message for event in events if event.kind == "warning"]
    assert "tokenize starts again from the texts embedded so far" in warning
    assert sum("embedded" in event.metrics for event in events) == 1, "the texts were embedded twice"
    assert events[-1].state == "done"


def test_data_that_cannot_be_used_leave_no_run_behind(cluster_root: Path) -> None:
    broken = cluster_root / "broken"
    broken.mkdir()
    (broken / "items.csv").write_text("item,title\ni1,one\n", encoding="utf-8")
    (broken / "interactions.csv").write_text("user,item\nu1,i1\nu1,i9\nu1,i1\n", encoding="utf-8")
    refused = run_cli(
        "train", "--stage", "all", "--run", "bad", "--set", f"data.path={broken}", cwd=cluster_root
    )
    assert refused.returncode == 2, refused.stderr
    assert "i9" in refused.stderr and "interactions.csv" in refused.stderr
    assert not (cluster_root / "runs" / "bad").exists()
    assert not list((cluster_root / "runs").glob(".bad*"))


def test_more_ranks_than_the_cluster_holds_are_refused(cluster_root: Path) -> None:
    refused = run_cli("train", "--stage", "all", "--run", "big", "--set", "learners.cpus=4", cwd=cluster_root)
    assert refused.returncode == 2
    assert "learners.cpus asks for 4 CPUs in one process" in refused.stderr
    assert not (cluster_root / "runs" / "big").exists()
